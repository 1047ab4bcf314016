"""A plane measured once gives parts that fit together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_samseg.core import images, planes
from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.images import open_image
from napari_samseg.core.planes import (
    describe_preprocessing,
    measure_plane,
    read_plane,
)
from napari_samseg.core.settings import ImageSettings

VOLUME = ImageSettings(scope="volume")


def stack(dtype: str = "uint16") -> np.ndarray:
    values = np.random.default_rng(0).normal(900, 300, (3, 40, 56)).clip(0)
    return values.astype(dtype)


@given(y=st.integers(0, 39), x=st.integers(0, 55), data=st.data())
def test_a_part_is_that_part_of_the_whole(y, x, data):
    y1, x1 = data.draw(st.integers(y + 1, 40)), data.draw(st.integers(x + 1, 56))
    plane = measure_plane(open_image(stack()), (1,))
    whole = read_plane(open_image(stack()), (1,))
    np.testing.assert_array_equal(plane.read((y, x, y1, x1)), whole[y:y1, x:x1])


@pytest.mark.parametrize("normalisation", ["percentile", "minmax", "standard", "none"])
def test_a_plane_read_in_bands_is_the_same_plane(normalisation, monkeypatch):
    settings = ImageSettings(normalisation)
    held = measure_plane(open_image(stack()), (1,), settings)
    for name in (images, planes):
        monkeypatch.setattr(name, "BAND_VALUES", 400)
    monkeypatch.setattr(planes, "HELD_VALUES", 400)
    banded = measure_plane(open_image(stack()), (1,), settings)
    assert banded.held is None
    assert banded.digest == held.digest
    np.testing.assert_array_equal(banded.limits, held.limits)
    np.testing.assert_array_equal(
        banded.read((3, 5, 30, 50)), held.read((3, 5, 30, 50))
    )


def test_a_part_is_averaged_like_the_whole():
    plane = measure_plane(open_image(stack()), (0,))
    part = plane.read((8, 8, 40, 40), max_pixels=256)
    blocks = plane.read((8, 8, 40, 40)).reshape(16, 2, 16, 2, 3).mean((1, 3))
    np.testing.assert_allclose(part, blocks, atol=1e-3)


def test_the_digest_is_that_of_the_pixels():
    volume = stack()
    digest = measure_plane(open_image(volume), (1,)).digest
    assert measure_plane(open_image(volume.astype(">u2")), (1,)).digest == digest
    assert measure_plane(open_image(volume), (2,)).digest != digest
    assert measure_plane(open_image(volume.astype("int32")), (1,)).digest != digest
    assert measure_plane(open_image(volume[1].T)).digest != digest
    volume[1, 20, 20] += 1
    assert measure_plane(open_image(volume), (1,)).digest != digest


def test_the_digest_is_of_the_chosen_channels():
    volume = stack()
    source = open_image(volume, channel_axis=0)
    digests = {
        channels: measure_plane(source, (), ImageSettings(channels=channels)).digest
        for channels in ((0,), (1,), (0, 1), (1, 0))
    }
    assert len(set(digests.values())) == 4
    volume[2] += 1
    unchanged = measure_plane(source, (), ImageSettings(channels=(0, 1)))
    assert unchanged.digest == digests[0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        ImageSettings("minmax"),
        ImageSettings("none"),
        ImageSettings(low=1),
        ImageSettings(high=99),
        VOLUME,
    ],
    ids=["minmax", "none", "low", "high", "volume"],
)
def test_another_contrast_is_another_preprocessing(settings):
    source = open_image(stack())
    assert describe_preprocessing(source, settings) != describe_preprocessing(
        source, ImageSettings()
    )


def test_the_numbers_of_a_volume_are_part_of_its_preprocessing():
    described = dict(describe_preprocessing(open_image(stack()), VOLUME))
    brighter = dict(describe_preprocessing(open_image(stack() * 2), VOLUME))
    assert described["limits"] != brighter["limits"]
    assert described["axes"] == "1, 2"


def test_where_channels_lie_is_part_of_the_preprocessing():
    data = np.zeros((4, 4, 20, 20), np.uint8)
    one, other = (open_image(data, channel_axis=axis) for axis in (0, 1))
    assert describe_preprocessing(one, ImageSettings()) != describe_preprocessing(
        other, ImageSettings()
    )


def test_what_is_written_into_the_image_later_is_not_read():
    volume = stack()
    plane = measure_plane(open_image(volume), (1,))
    before = plane.read((0, 0, 8, 8))
    volume[1] = 0
    np.testing.assert_array_equal(plane.read((0, 0, 8, 8)), before)


class Broken:
    """A volume of which some planes cannot be read."""

    shape, dtype = (6, 40, 56), np.dtype("uint16")

    def __init__(self, broken):
        self.broken = broken

    def __getitem__(self, key):
        if key[0] in self.broken:
            raise OSError("bad block")
        return stack()[0]


def test_the_contrast_of_a_volume_is_taken_from_planes_that_can_be_read():
    assert read_plane(open_image(Broken({2})), (0,), VOLUME).max() == 255
    with pytest.raises(
        InvalidImageError, match=r"no plane .* can be read, 6 tried: bad block"
    ):
        read_plane(open_image(Broken(set(range(6)))), (0,), VOLUME)


@pytest.mark.parametrize("scope", ["plane", "volume"])
def test_mean_and_deviation_become_those_that_sam_was_trained_on(scope):
    source = open_image(stack())
    seen = read_plane(source, (1,), ImageSettings("standard", scope=scope))
    # values are clipped at both ends, so not quite
    assert seen.mean() == pytest.approx(114.5, abs=3)
    assert seen.std() == pytest.approx(57.6, abs=3)


def test_a_single_channel_is_shown_in_colours():
    source, grey = open_image(stack()), read_plane(open_image(stack()), (0,))
    coloured = read_plane(source, (0,), ImageSettings(colour_map="viridis"))
    darkest, brightest = grey[..., 0] == 0, grey[..., 0] == 255
    # the ends of viridis, in 0..255
    np.testing.assert_allclose(coloured[darkest][0], [68, 1, 84], atol=1)
    np.testing.assert_allclose(coloured[brightest][0], [253, 231, 37], atol=1)
    described = [
        describe_preprocessing(source, ImageSettings(colour_map=name))
        for name in ("grey", "viridis")
    ]
    assert described[0] != described[1]
    picture = open_image(np.stack([stack()[0]] * 3, axis=-1), rgb=True)
    np.testing.assert_array_equal(
        read_plane(picture, (), ImageSettings(colour_map="hot")),
        read_plane(picture, ()),
    )
