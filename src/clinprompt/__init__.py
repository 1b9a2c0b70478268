"""clinprompt: one frozen language model for every clinical NLP task, at kilobytes per task."""

from clinprompt.version import __version__ as __version__
