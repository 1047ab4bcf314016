from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import hausdorff_distance as exact_distance
from skimage.segmentation import find_boundaries

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.metrics.surface import hausdorff_distance


def two_shapes(ndim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    grid = np.indices((24,) * ndim).reshape(ndim, -1).T
    masks = []
    for middle, radius in ((10, 6), (12, 5)):
        inside = ((grid - middle) ** 2).sum(1) <= radius**2
        masks.append(inside.reshape((24,) * ndim))
    masks[1] |= rng.random(masks[1].shape) < 0.002
    return masks[0], masks[1]


def test_distance_by_hand() -> None:
    found, true = np.zeros((2, 30, 30), bool)
    found[5, 5:25] = True
    true[9, 5:25] = True
    assert hausdorff_distance(found, true) == 4
    assert hausdorff_distance(found, true, spacing=(0.5, 2)) == 2
    # one pixel of twenty-one is far away: the percentile leaves it out
    found[20, 10] = True
    assert hausdorff_distance(found, true, percentile=100) == 11
    assert hausdorff_distance(found, true, percentile=95) == 4


def test_empty_masks() -> None:
    nothing, one = np.zeros((2, 30, 40), bool)
    one[3, 3] = True
    assert hausdorff_distance(nothing, nothing) == 0
    assert hausdorff_distance(nothing, one) == hausdorff_distance(one, nothing) == 50
    assert hausdorff_distance(one, nothing, spacing=(2, 3)) == math.hypot(60, 120)


@pytest.mark.parametrize("ndim", [2, 3])
def test_whole_distance_agrees_with_scikit_image(ndim) -> None:
    found, true = two_shapes(ndim)
    edges = [find_boundaries(mask, 1, "inner") & mask for mask in (found, true)]
    ours = hausdorff_distance(found, true, percentile=100)
    assert ours == pytest.approx(exact_distance(*edges), rel=1e-5)


@pytest.mark.slow(reason="MONAI takes half a minute to import")
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("spacing", [None, 1.0, (2.0, 0.5, 0.7)])
def test_agrees_with_monai(spacing) -> None:
    metrics = pytest.importorskip("monai.metrics", reason="MONAI compares the scores")
    import torch

    found, true = two_shapes(3)
    steps = (spacing,) * 3 if isinstance(spacing, float) else spacing
    theirs = metrics.compute_hausdorff_distance(
        *(torch.from_numpy(mask)[None, None] for mask in (found, true)),
        include_background=True,
        percentile=95,
        spacing=None if spacing is None else list(steps),
    )
    ours = hausdorff_distance(found, true, spacing=steps)
    assert ours == pytest.approx(float(theirs), rel=1e-5)


def test_bad_input() -> None:
    mask = np.ones((4, 4), bool)
    with pytest.raises(InvalidLabelsError, match="one shape"):
        hausdorff_distance(mask, mask[:3])
    for spacing in ((1.0,), (1.0, 0.0), (1.0, math.nan)):
        with pytest.raises(SettingsError, match="positive"):
            hausdorff_distance(mask, mask, spacing=spacing)
