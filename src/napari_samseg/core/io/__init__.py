"""Images, prompts and labels in files."""
