"""Readers of the public corpora of the catalog; `registry.LOADERS` names them."""
