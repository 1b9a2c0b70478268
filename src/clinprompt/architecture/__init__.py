"""Networks that produce a prefix, and the space in which one is searched for (PrefixNAS, arXiv 2605.14055)."""
