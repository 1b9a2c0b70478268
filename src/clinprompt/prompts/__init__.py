"""Soft prompts: the bank, initialisation, artifacts, inspection."""
