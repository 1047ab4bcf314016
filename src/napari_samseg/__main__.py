"""``python -m napari_samseg`` is the command ``napari-samseg``."""

from napari_samseg.cli import app

app(prog_name="napari-samseg")
