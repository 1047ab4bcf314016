"""napari layers to core types and back; the only code that adds or edits layers."""
