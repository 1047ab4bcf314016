"""Dock widgets: they read settings, start workers and show what comes back."""
