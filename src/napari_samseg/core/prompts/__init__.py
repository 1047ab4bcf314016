"""Prompts from what a person draws, and from labels."""
