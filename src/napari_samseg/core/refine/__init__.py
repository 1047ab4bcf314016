"""Rough labels through a model, and back to instances with the same ids."""
