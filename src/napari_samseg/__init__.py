"""Segment Anything for microscopy, EM and medical images in napari."""
