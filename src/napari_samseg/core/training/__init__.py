"""Training promptable models: samples, losses, the loop and its state on disk."""
