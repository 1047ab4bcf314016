"""Variants of a view: pixels and labels changed alike.

Flips and turns by right angles, rotation, scale, elastic displacement and section
slip move pixels and labels together (labels by nearest neighbour, so that ids stay
ids). Contrast, gamma, colour, blur, noise and missing stripes change pixels alone,
after the contrast of the image was settled: what the contrast would undo is of no use.

The kinds and their usual strengths are those of the EM pipelines: CREMI's and
`zudi-lin`'s elastic displacement, slip and missing sections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_samseg.core.settings import AugmentSettings
from napari_samseg.core.types import FloatArray

__all__ = ["augment"]

# Distance of the points that elastic displacement is drawn at, in pixels.
ELASTIC_GRID = 64
# Width of a stripe without data, as a share of the shorter side.
STRIPE = 0.06

Labels = npt.NDArray[np.integer]


def augment(
    pixels: FloatArray,
    labels: Labels,
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> tuple[FloatArray, Labels]:
    """Return a random variant of a view.

    Parameters
    ----------
    pixels : (Y, X, 3) float32
        In 0..255.
    labels : (Y, X) integer
    settings : AugmentSettings
    rng : numpy.random.Generator

    Returns
    -------
    pixels, labels
        New arrays; X and Y may have changed places.
    """
    if settings.flip:
        pixels, labels = _flip(pixels, labels, rng)
    field = _displacement(labels.shape, settings, rng)
    if field is not None:
        pixels, labels = field.move(pixels), field.move_labels(labels)
    pixels = _change_grey(pixels, settings, rng)
    if rng.random() < settings.missing:
        pixels = _tear(pixels, rng)
    return np.ascontiguousarray(pixels, np.float32), np.ascontiguousarray(labels)


def _flip(
    pixels: FloatArray, labels: Labels, rng: np.random.Generator
) -> tuple[FloatArray, Labels]:
    turns, is_mirrored = int(rng.integers(4)), bool(rng.integers(2))
    if is_mirrored:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    return np.rot90(pixels, turns), np.rot90(labels, turns)


@dataclass(frozen=True, slots=True, eq=False)
class _Displacement:
    """Where each pixel of the variant comes from, (2, Y, X) float32."""

    origin_yx: FloatArray

    def move(self, pixels: FloatArray) -> FloatArray:
        """Interpolate pixels; mirrored beyond the edges."""
        moved = np.empty_like(pixels)
        for channel in range(pixels.shape[2]):
            ndimage.map_coordinates(
                pixels[..., channel],
                self.origin_yx,
                output=moved[..., channel],
                order=1,
                mode="reflect",
            )
        return moved

    def move_labels(self, labels: Labels) -> Labels:
        """Take the nearest label; none beyond the edges, where objects are cut."""
        rows, columns = np.rint(self.origin_yx).astype(np.int64)
        height, width = labels.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        moved = labels[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        return np.asarray(np.where(inside, moved, 0), labels.dtype)


def _displacement(
    size: tuple[int, ...], settings: AugmentSettings, rng: np.random.Generator
) -> _Displacement | None:
    """Draw rotation, scale, elastic displacement and slip; None if there is none."""
    if not (settings.rotation or settings.scale or settings.elastic or settings.slip):
        return None
    height, width = size
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    scale = 1 + rng.uniform(-settings.scale, settings.scale)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    grid = np.indices((height, width), np.float32)
    middle = np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    origin = np.einsum("ij,jyx->iyx", matrix / scale, grid - middle) + middle
    if settings.elastic:
        origin += _smooth_noise((height, width), rng) * settings.elastic / 2
    if settings.slip:
        origin += _slip(grid, settings.slip, rng)
    return _Displacement(origin.astype(np.float32))


def _smooth_noise(size: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Draw a smooth field (2, Y, X), standard normal at its grid points."""
    coarse = [max(2, -(-length // ELASTIC_GRID) + 1) for length in size]
    drawn = rng.standard_normal((2, *coarse))
    zoom = [length / n for length, n in zip(size, coarse, strict=True)]
    fields = [ndimage.zoom(field, zoom, order=3, mode="nearest") for field in drawn]
    cut = [field[: size[0], : size[1]] for field in fields]
    return np.asarray(cut, np.float32)


def _slip(grid: FloatArray, most: float, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Move one side of a random line along it."""
    height, width = grid.shape[1:]
    angle = rng.uniform(0, np.pi)
    along = np.array([np.sin(angle), np.cos(angle)])
    across = np.array([along[1], -along[0]])
    through = rng.uniform(0.25, 0.75, 2) * (height, width)
    side = np.einsum("i,iyx->yx", across, grid - through[:, None, None]) > 0
    moved = along[:, None, None] * (rng.uniform(-most, most) * side)
    return np.asarray(moved)


def _change_grey(
    pixels: FloatArray, settings: AugmentSettings, rng: np.random.Generator
) -> FloatArray:
    values: npt.NDArray[Any] = pixels.astype(np.float32)
    if settings.blur:
        sigma = rng.uniform(0, settings.blur)
        values = ndimage.gaussian_filter(values, (sigma, sigma, 0))
    if settings.colour and _is_coloured(values):
        powers = 2.0 ** rng.uniform(-settings.colour, settings.colour, values.shape[2])
        # of an intensity I from white I0, (I / I0)^k has k times the optical density
        values = 255 * (values / 255) ** powers.astype(np.float32)
    if settings.gamma:
        power = 2.0 ** rng.uniform(-settings.gamma, settings.gamma)
        values = 255 * (values / 255) ** np.float32(power)
    if settings.contrast:
        gain = 1 + rng.uniform(-settings.contrast, settings.contrast)
        shift = 127.5 * rng.uniform(-settings.contrast, settings.contrast)
        values = (values - 127.5) * gain + 127.5 + shift
    if settings.noise:
        deviation = rng.uniform(0, settings.noise)
        noise = rng.standard_normal(values.shape[:2], np.float32)
        # the same in all channels: grey images stay grey
        values = values + np.float32(deviation) * noise[..., None]
    return np.asarray(np.clip(values, 0, 255), np.float32)


def _is_coloured(values: npt.NDArray[Any]) -> bool:
    return bool((values[..., :1] != values).any())


def _tear(pixels: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Fill a stripe with the mean."""
    height, width = pixels.shape[:2]
    angle = rng.uniform(0, np.pi)
    y, x = np.ogrid[:height, :width]
    y0, x0 = rng.uniform(0, 1, 2) * (height, width)
    away = np.abs((y - y0) * np.sin(angle) + (x - x0) * np.cos(angle))
    torn = pixels.copy()
    torn[away < STRIPE / 2 * min(height, width)] = pixels.mean(axis=(0, 1))
    return torn
