"""The embedded sample: synthetic clinical text with gold structure for all five task types, made by rule."""

from clinprompt.corpora.sample.note import sample_note
from clinprompt.corpora.sample.suite import SampleTask, sample_suite

__all__ = ["SampleTask", "sample_note", "sample_suite"]
