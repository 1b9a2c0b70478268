"""Files to records: readers, the catalog of public corpora, suites, and the synthetic sample."""
