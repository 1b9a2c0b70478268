"""The comparison: every method on every target, as content-addressed cells that are computed once."""
