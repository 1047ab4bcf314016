from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.settings import AugmentSettings
from napari_samseg.core.training.augment import augment

STILL = {"flip": False}


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two discs and a bar, as labels, and as pixels that show each in its grey."""
    y, x = np.ogrid[:90, :120]
    labels = np.zeros((90, 120), np.int32)
    labels[(y - 30) ** 2 + (x - 40) ** 2 < 200] = 1
    labels[(y - 60) ** 2 + (x - 80) ** 2 < 150] = 7
    labels[70:75, 20:60] = 9
    pixels = np.repeat((labels * 25.0)[..., None], 3, axis=2).astype(np.float32)
    return pixels, labels


@pytest.mark.parametrize(
    "settings",
    [
        AugmentSettings(flip=True),
        AugmentSettings(**STILL, rotation=180),
        AugmentSettings(**STILL, scale=0.3),
        AugmentSettings(**STILL, elastic=6),
        AugmentSettings(**STILL, slip=15),
        AugmentSettings(rotation=30, scale=0.2, elastic=3),
    ],
    ids=["flip", "rotation", "scale", "elastic", "slip", "all"],
)
def test_pixels_and_labels_move_together(settings: AugmentSettings) -> None:
    pixels, labels = pair()
    for seed in range(3):
        moved, found = augment(pixels, labels, settings, np.random.default_rng(seed))
        assert moved.shape == (*found.shape, 3)
        assert moved.dtype == np.float32
        assert set(np.unique(found)) <= {0, 1, 7, 9}
        assert not np.array_equal(found, labels) or seed
        inside = found == 7
        assert inside.any()
        # interpolation blurs the outlines only
        assert np.median(np.abs(moved[inside][:, 0] - 175)) < 1
        assert np.median(moved[found == 0]) == 0


def test_grey_changes_leave_labels_alone_and_stay_in_range() -> None:
    pixels, labels = pair()
    settings = AugmentSettings(
        **STILL, contrast=0.5, gamma=1, blur=2, noise=40, missing=1
    )
    moved, found = augment(pixels, labels, settings, np.random.default_rng(0))
    assert np.array_equal(found, labels)
    assert 0 <= moved.min() < moved.max() <= 255
    assert np.abs(moved - pixels).mean() > 5
    assert np.array_equal(moved[..., 0], moved[..., 2])


def test_the_same_seed_gives_the_same_variant() -> None:
    pixels, labels = pair()
    settings = AugmentSettings(rotation=20, elastic=4, noise=9, slip=5)
    one, other, third = (
        augment(pixels, labels, settings, np.random.default_rng(seed))[0]
        for seed in (3, 3, 4)
    )
    assert np.array_equal(one, other)
    assert one.shape != third.shape or not np.array_equal(one, third)


def test_stains_vary_and_grey_images_do_not() -> None:
    grey, labels = pair()
    settings = AugmentSettings(**STILL, colour=1)
    moved, _ = augment(grey, labels, settings, np.random.default_rng(0))
    assert np.array_equal(moved, grey)
    stained = grey.clip(1) * np.array([1.0, 0.5, 0.8], np.float32)
    moved, found = augment(stained, labels, settings, np.random.default_rng(0))
    assert np.array_equal(found, labels)
    density, before = -np.log(moved / 255), -np.log(stained / 255)
    factors = density / before
    assert np.allclose(factors, factors[:1, :1], rtol=1e-3)
    assert factors[0, 0].std() > 0.1
    assert ((factors >= 0.5) & (factors <= 2)).all()
