"""Decoding, prediction and scoring of records."""
