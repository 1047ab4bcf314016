"""What the tests of panels and sessions share."""

from __future__ import annotations

import pytest
from skimage import data, measure, morphology, segmentation


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Autosave into the test's folder, never into the user's."""
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def model():
    """The embedded model, loaded once."""
    from napari_samseg.core.models import load_model

    return load_model("default", device="cpu", precision="exact")


@pytest.fixture(scope="session")
def coins():
    """Part of scikit-image's photograph of coins, (160, 180) uint8."""
    return data.coins()[:160, 60:240].copy()


@pytest.fixture(scope="session")
def coin_labels(coins):
    """Its coins as Otsu's threshold finds them, filled, in reading order."""
    from skimage.filters import gaussian, threshold_otsu

    smooth = gaussian(coins, 2)
    mask = morphology.remove_small_objects(
        smooth > threshold_otsu(smooth), max_size=300
    )
    filled = segmentation.clear_border(measure.label(morphology.closing(mask)))
    return measure.label(filled > 0)


@pytest.fixture(scope="session")
def coin_region(coin_labels):
    """The largest whole coin."""
    return max(measure.regionprops(coin_labels), key=lambda region: region.area)
