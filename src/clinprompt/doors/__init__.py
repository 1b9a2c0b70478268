"""Doors into what people already use: spaCy, lm-evaluation-harness, FHIR R4 and the OMOP common data model."""
