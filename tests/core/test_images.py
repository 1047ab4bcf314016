"""Planes of any image."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import data as samples

from napari_samseg.core import images, planes
from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.errors import InvalidImageError, SettingsError
from napari_samseg.core.images import open_image
from napari_samseg.core.planes import read_plane
from napari_samseg.core.settings import ImageSettings

NONE = ImageSettings(normalisation="none")
MINMAX = ImageSettings(normalisation="minmax")


def _volume(dtype: str = "uint16") -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 4000, (5, 24, 31)).astype(dtype)


def _chunked(kind: str, volume: np.ndarray):
    if kind == "dask":
        return da.from_array(volume, chunks=(1, 10, 10))
    if kind == "zarr":
        return zarr.array(volume, chunks=(1, 10, 10))
    return volume


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_a_plane_is_the_same_from_every_kind_of_array(kind: str) -> None:
    volume = _volume()
    plane = read_plane(open_image(_chunked(kind, volume)), (3,), MINMAX)
    raw = volume[3].astype(float)
    expected = (raw - raw.min()) / (raw.max() - raw.min()) * 255
    assert plane.shape == (24, 31, 3)
    assert plane.dtype == np.float32
    np.testing.assert_allclose(plane, expected[..., None].repeat(3, -1), atol=1e-3)


def test_only_the_plane_asked_for_is_read() -> None:
    touched: list[int] = []

    def block(block_info=None) -> np.ndarray:
        touched.append(block_info[None]["chunk-location"][0])
        return np.ones((1, 8, 8), np.uint8)

    volume = da.map_blocks(block, chunks=((1,) * 6, (8,), (8,)), dtype=np.uint8)
    touched.clear()  # dask may call the function once to learn its result's type
    read_plane(open_image(volume), (4,), NONE)
    assert touched == [4]


def test_volume_scope_gives_each_plane_the_same_limits() -> None:
    volume = np.stack([np.full((16, 16), z * 10, np.uint16) for z in range(11)])
    source = open_image(volume)
    settings = ImageSettings(normalisation="minmax", scope="volume")
    values = [float(read_plane(source, (z,), settings).max()) for z in (0, 5, 10)]
    np.testing.assert_allclose(values, [0, 127.5, 255])


def test_volume_limits_read_a_bounded_number_of_planes() -> None:
    read: list[tuple] = []

    class Counting:
        shape, dtype = (1000, 8, 8), np.dtype("uint8")

        def __getitem__(self, key: tuple) -> np.ndarray:
            read.append(key)
            return np.full((8, 8), key[0] % 256, np.uint8)

    source = open_image(Counting())
    settings = ImageSettings(scope="volume")
    read_plane(source, (7,), settings)
    assert len(read) <= 17
    read_plane(source, (8,), settings)
    assert len(read) <= 18


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize("normalisation", ["percentile", "minmax", "none"])
@pytest.mark.parametrize("scope", ["plane", "volume"])
@pytest.mark.parametrize("axes", [(1, 2), (2, 1)])
def test_a_large_plane_is_averaged_band_by_band(
    kind: str, normalisation: str, scope: str, axes: tuple[int, int], monkeypatch
) -> None:
    monkeypatch.setattr(images, "BAND_VALUES", 600)
    monkeypatch.setattr(planes, "BAND_VALUES", 600)
    monkeypatch.setattr(planes, "HELD_VALUES", 600)
    volume = np.random.default_rng(0).normal(90, 40, (2, 96, 144)).astype(np.float32)
    volume[1, 3, 5], volume[0, 7, 0] = np.nan, np.inf
    if normalisation == "none":
        volume /= 255
    settings = ImageSettings(normalisation, scope=scope)
    source = open_image(_chunked(kind, volume))
    full = read_plane(source, (1,), settings, plane_axes=axes)
    small = read_plane(source, (1,), settings, plane_axes=axes, max_pixels=96 * 16)
    y, x = full.shape[0] // 3, full.shape[1] // 3
    assert small.shape == (y, x, 3)
    blocks = full.reshape(y, 3, x, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, blocks, atol=1e-3)


def test_a_large_plane_whose_sides_do_not_divide_keeps_its_place() -> None:
    plane = np.add.outer(np.arange(101.0), np.arange(83.0))
    small = read_plane(open_image(plane), (), MINMAX, max_pixels=900)
    y, x = small.shape[:2]
    ideal = np.add.outer(
        (np.arange(y) + 0.5) * 101 / y - 0.5, (np.arange(x) + 0.5) * 83 / x - 0.5
    )
    # blocks are of whole pixels, so that each is off by less than one
    assert np.abs(small[..., 0] * 182 / 255 - ideal).max() < 1.5
    assert (np.diff(small[..., 0], axis=0) > 0).all()


def test_a_huge_plane_is_read_in_little_memory() -> None:
    rows: list[int] = []

    class Huge:
        shape, dtype = (60_000, 40_000), np.dtype("uint8")

        def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
            rows.append(key[0].stop - key[0].start)
            return np.full((rows[-1], 40_000), 1, np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "stretch", lambda values, *_: values)
        plane = read_plane(open_image(Huge()), (), NONE, max_pixels=1 << 16)
    assert max(rows) * 40_000 <= 1.2 * images.BAND_VALUES
    assert plane.shape == (314, 209, 3)


def test_any_two_axes_make_a_plane() -> None:
    volume = _volume()
    source = open_image(volume)
    zx = read_plane(source, (4,), MINMAX, plane_axes=(0, 2))
    assert zx.shape == (5, 31, 3)
    xz = read_plane(source, (4,), MINMAX, plane_axes=(2, 0))
    np.testing.assert_array_equal(xz, zx.swapaxes(0, 1))


def test_multiscale_reads_the_chosen_level() -> None:
    fine = _volume()
    source = open_image([fine, fine[:, ::2, ::2]])
    assert source.shape == (5, 24, 31)
    assert read_plane(source, (0,), ImageSettings(level=1)).shape == (12, 16, 3)
    with pytest.raises(InvalidImageError, match="level 2"):
        read_plane(source, (0,), ImageSettings(level=2))


def test_napari_multiscale_data_is_recognised() -> None:
    layer_data = pytest.importorskip("napari.layers").Image(
        [np.ones((64, 64), np.uint8), np.ones((32, 32), np.uint8)], multiscale=True
    )
    assert len(open_image(layer_data.data).levels) == 2


def test_rgb_keeps_its_hue_and_drops_alpha() -> None:
    image = np.zeros((20, 20, 4), np.uint8)
    image[..., 0], image[..., 1], image[..., 3] = 200, 100, 255
    image[0, 0, :3] = 0
    source = open_image(image)
    assert source.rgb
    assert source.n_channels == 3
    plane = read_plane(source, (), MINMAX)
    np.testing.assert_allclose(plane[5, 5], [255, 127.5, 0])


def test_uint8_rgb_without_normalisation_is_unchanged() -> None:
    image = samples.immunohistochemistry()[:64, :64]
    np.testing.assert_array_equal(read_plane(open_image(image), (), NONE), image)


def test_channels_are_chosen_or_mapped_to_colours() -> None:
    image = np.zeros((3, 4, 16, 16), np.uint16)  # (Z, C, Y, X)
    for channel in range(4):
        image[:, channel, channel, :] = 1000 * (channel + 1)
    source = open_image(image, channel_axis=1)
    assert source.shape == (3, 16, 16)
    assert source.n_channels == 4
    grey = read_plane(source, (2,), ImageSettings("minmax", channels=(3,)))
    assert (grey[3] == 255).all()
    colours = read_plane(source, (2,), ImageSettings("minmax", channels=(2, 0)))
    assert colours[2, 0].tolist() == [255, 0, 0]
    assert colours[0, 0].tolist() == [0, 255, 0]
    with pytest.raises(InvalidImageError, match="channel 4"):
        read_plane(source, (2,), ImageSettings(channels=(4,)))


def test_channels_of_an_image_without_any_are_refused() -> None:
    source = open_image(_volume())
    read_plane(source, (2,), ImageSettings(channels=(0,)))
    with pytest.raises(InvalidImageError, match=r"no channel 7 .*without a channel"):
        read_plane(source, (2,), ImageSettings(channels=(7,)))


def test_small_differences_on_a_large_offset_survive() -> None:
    raw = np.full((8, 8), 2**31 - 4, np.uint32)
    raw[0, 0] += 2
    assert normalise_plane(raw, MINMAX)[0, 0, 0] == 255
    assert normalise_plane(raw, MINMAX)[1, 1, 0] == 0


def test_a_bright_spot_on_an_even_background_is_seen() -> None:
    raw = np.zeros((200, 200), np.uint16)
    raw[7, 7] = 500
    assert normalise_plane(raw)[7, 7, 0] == 255


@given(
    hnp.arrays(
        st.sampled_from([np.bool_, np.uint8, np.int16, np.uint64, np.float16, "f4"]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    ),
    st.sampled_from(["percentile", "minmax", "none"]),
)
def test_every_plane_gives_finite_values_in_range(
    raw: np.ndarray, normalisation: str
) -> None:
    plane = normalise_plane(raw, ImageSettings(normalisation))
    assert plane.shape == (*raw.shape, 3)
    assert np.isfinite(plane).all()
    assert plane.min() >= 0
    assert plane.max() <= 255


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_planes_without_contrast_do_not_fail(value: float) -> None:
    assert (normalise_plane(np.full((1, 1), value)) == 0).all()


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros(5), {}, "two axes"),
        (np.zeros((5, 5), complex), {}, "complex"),
        (np.zeros((0, 5)), {}, "no pixels"),
        ([[1, 2], [3]], {}, "not an image"),
        (np.zeros((9, 9)), {"rgb": True}, "last axis of 3 or 4"),
        (np.zeros((9, 9, 3)), {"channel_axis": 5}, "channel_axis 5"),
        (np.zeros((9, 9, 3)), {"channel_axis": 2, "rgb": True}, "not both"),
    ],
)
def test_what_is_not_an_image_is_refused(image, options, message: str) -> None:
    with pytest.raises(InvalidImageError, match=message):
        open_image(image, **options)


@pytest.mark.parametrize("index", [(), (1, 2), (5,), (-1,)])
def test_an_index_outside_the_image_is_refused(index: tuple[int, ...]) -> None:
    with pytest.raises(InvalidImageError, match="plane"):
        read_plane(open_image(_volume()), index)


def test_plane_axes_must_be_two_of_the_image() -> None:
    with pytest.raises(InvalidImageError, match="plane_axes"):
        read_plane(open_image(_volume()), (0,), plane_axes=(1, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"normalisation": "zscore"},
        {"low": 60.0, "high": 40.0},
        {"high": 101.0},
        {"low": float("nan")},
        {"channels": (0, 1, 2, 3)},
        {"level": -1},
    ],
)
def test_settings_out_of_bounds_are_refused(options: dict) -> None:
    with pytest.raises(SettingsError):
        ImageSettings(**options)
