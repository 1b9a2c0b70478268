"""Keeping what was learned alive: new source tasks for a metaprompt; does a deployed task still do its work?"""
