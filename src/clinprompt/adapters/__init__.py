"""What is trained inside the backbone instead of before it: LoRA, prefixes, a copy of all weights."""
