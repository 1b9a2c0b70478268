"""Rows of the general benchmarks (GLUE, SuperGLUE, MMLU, commonsense reasoning) as records."""
