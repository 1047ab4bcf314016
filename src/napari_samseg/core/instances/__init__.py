"""Semantic labels to instance labels, and instance labels put in order."""
