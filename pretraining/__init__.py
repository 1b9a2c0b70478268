"""How the embedded backbone came to be: text → tokenizer → self-supervised tasks → training → exported weights."""
