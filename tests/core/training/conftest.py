from __future__ import annotations

import numpy as np
import pytest
from tiny_coins import labelled_coins, tiny_model

from napari_samseg.core.models.sam import SamModel


@pytest.fixture
def coin_labels() -> tuple[np.ndarray, np.ndarray]:
    """A corner of scikit-image's coins with the components of Otsu's threshold."""
    return labelled_coins()


@pytest.fixture
def model() -> SamModel:
    return tiny_model()
