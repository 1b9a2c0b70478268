"""clinprompt: one frozen language model for every clinical NLP task, at kilobytes per task."""
