"""Frozen base models: loading, fingerprint, prompt injection, prompt cache."""
