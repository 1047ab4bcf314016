"""Everything the plugin can do, without a window: a plain Python library."""
