"""Scores of masks and of promptable models."""
