"""Measurements against peers, with committed results."""
