"""Tasks as text: definitions, codecs (record to text and back) and metrics."""
