"""Sample data for napari's File menu: some that come along, one that is fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import DownloadError

__all__ = [
    "cell_sample",
    "coins_sample",
    "sstem_sample",
    "tissue_sample",
]

LayerData = tuple[npt.NDArray[Any], dict[str, Any], str]

# Serial-section TEM of a Drosophila larva's ventral nerve cord, stack 1, CC BY-NC-SA
# 3.0: Gerhard, Funke, Martel, Cardona & Fetter 2013, doi:10.6084/m9.figshare.856713.
# The address names a commit, so the files cannot change; no hash of them has been
# published, so what is checked is the SHA-256 of the pixels.
SSTEM_URL = (
    "https://raw.githubusercontent.com/unidesigner/groundtruth-drosophila-vnc/"
    "4a5f051466d24d8dc1e855ab55658bb1b1dcd6bf/stack1/raw/{:02d}.tif"
)
SSTEM_SECTIONS = 20
SSTEM_SHA256 = "b845f8b459993f5ca6135daba76a4069bdddca65770f5171f4c3518765f391da"
# nm: 4.6 in the section; sections are 45 to 50 thick
SSTEM_SCALE = (50.0, 4.6, 4.6)


def coins_sample() -> list[LayerData]:
    """Return a photograph of Greek coins, (303, 384) uint8, from scikit-image."""
    from skimage.data import coins

    return [(coins(), {"name": "coins"}, "image")]


def cell_sample() -> list[LayerData]:
    """Return a cell in a phase microscope, (660, 550) uint8, from scikit-image."""
    from skimage.data import cell

    return [(cell(), {"name": "cell"}, "image")]


def tissue_sample() -> list[LayerData]:
    """Return stained colonic glands, (512, 512, 3) uint8, from scikit-image."""
    from skimage.data import immunohistochemistry

    return [(immunohistochemistry(), {"name": "tissue", "rgb": True}, "image")]


def sstem_sample() -> list[LayerData]:
    """Return 20 serial sections of a nerve cord, (20, 1024, 1024) uint8.

    Downloaded once, about 20 MB, into the cache folder.

    Raises
    ------
    DownloadError
        If it cannot be had; the message says from where and to which folder.
    """
    from napari_samseg.adapters.plugin_settings import read_plugin_settings

    folder = read_plugin_settings().cache_path / "samples" / "sstem"
    stack = _fetch_sections(folder)
    metadata = {
        "name": "nerve cord (ssTEM)",
        "scale": SSTEM_SCALE,
        "units": ("nm", "nm", "nm"),
        "axis_labels": ("z", "y", "x"),
    }
    return [(stack, metadata, "image")]


def _fetch_sections(folder: Path) -> npt.NDArray[np.uint8]:
    """Fetch the sections that are not in `folder`, and check them all."""
    import pooch
    import requests
    from napari.utils import progress
    from skimage.io import imread

    sections = []
    for i in progress(range(SSTEM_SECTIONS), desc="downloading sections"):
        url = SSTEM_URL.format(i)
        try:
            path = pooch.retrieve(
                url, known_hash=None, fname=f"{i:02d}.tif", path=folder
            )
        except (requests.RequestException, OSError) as error:
            raise DownloadError(
                f"section {i + 1} of {SSTEM_SECTIONS} did not arrive: {error}. "
                f"Try again later, or put {url} and those that follow into {folder}"
            ) from error
        sections.append(imread(path))
    stack: npt.NDArray[np.uint8] = np.stack(sections)
    if hashlib.sha256(stack.tobytes()).hexdigest() != SSTEM_SHA256:
        for i in range(SSTEM_SECTIONS):
            (folder / f"{i:02d}.tif").unlink()
        raise DownloadError(
            "the sections that arrived are not the published ones and were removed: "
            "try again"
        )
    return stack
