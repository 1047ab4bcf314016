"""How a scene is seen: light, blur, noise, stain and the limits of a detector."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from drawing import Float, Random, Scene, smooth_noise
from scipy import ndimage

# share of all images that have each of these
CLUTTER, SPECKS, UNEVEN, LINES, SATURATED, DARK_OBJECTS, STAINED = (
    0.5,
    0.3,
    0.5,
    0.12,
    0.12,
    0.4,
    0.3,
)
# absorption of red, green and blue by haematoxylin and eosin (Ruifrok and Johnston
# 2001), which tissue is mostly stained with
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)


def image_scene(
    rng: Random, scene: Scene, *, difficulty: float, bits: int
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Photograph a scene.

    Parameters
    ----------
    rng : numpy.random.Generator
    scene : Scene
    difficulty : float in 0..1
        Takes contrast, sharpness and photons, and adds clutter, noise and uneven light.
    bits : int
        8 or 16, of the detector.

    Returns
    -------
    (Y, X) or (Y, X, 3) uint8 or uint16
    """
    size = scene.grey.shape[0]
    grey = _clutter(rng, scene, difficulty)
    if rng.random() < UNEVEN:
        ramp = smooth_noise(rng, size, size / rng.uniform(0.8, 2.5))
        strength = difficulty * rng.uniform(0.3, 1)
        grey = grey * np.exp(0.4 * strength * ramp) + 0.15 * strength * ramp
    blur = np.exp(np.log(0.3) + difficulty * np.log(8) * rng.uniform(0.3, 1))
    grey = ndimage.gaussian_filter(grey, blur)
    low, high = np.percentile(grey, [0.5, 99.5])
    grey = np.clip((grey - low) / max(high - low, 1e-3), -0.1, 1.2)
    contrast = 1 - difficulty * rng.uniform(0.6, 0.85)
    grey = contrast * grey + rng.uniform(0, 1 - contrast)
    photons = 3000 * np.exp(-difficulty * rng.uniform(2, 4.6))
    grey = rng.poisson(np.clip(grey, 0, None) * photons) / photons
    grey = grey + rng.normal(0, 0.06 * difficulty * rng.random(), grey.shape)
    if rng.random() < LINES:
        grey = _scan_lines(rng, grey, difficulty)
    if rng.random() < SATURATED:
        grey = grey * rng.uniform(1.1, 1.6) - rng.uniform(0, 0.15)
    if rng.random() < DARK_OBJECTS:
        grey = 1 - grey
    if rng.random() < STAINED:
        grey = _stain(rng, grey)
    return _digitise(rng, grey, bits)


def _clutter(rng: Random, scene: Scene, difficulty: float) -> Float:
    """Add what is no object: structure of the ground, specks and debris."""
    grey, size = scene.grey.copy(), scene.grey.shape[0]
    ground = scene.labels[-1] == 0
    if rng.random() < CLUTTER:
        clutter = smooth_noise(rng, size, rng.uniform(4, 40))
        grey += clutter * ground * (0.15 * difficulty * rng.random())
    if rng.random() < SPECKS * (0.3 + 0.7 * difficulty):
        specks = rng.random((size, size)) > 0.999
        grey += ndimage.gaussian_filter(specks.astype(np.float32), 1.0) * 5
    return grey


def _scan_lines(
    rng: Random, grey: npt.NDArray[np.float64], difficulty: float
) -> npt.NDArray[np.float64]:
    """Lines of another brightness, some shifted sideways, across either axis."""
    across = rng.random() < 0.3
    grey = grey.T if across else grey
    offsets = rng.normal(0, 0.02 + 0.05 * difficulty, (len(grey), 1))
    grey = grey + offsets
    for row in np.flatnonzero(rng.random(len(grey)) < 0.03 * difficulty):
        grey[row] = np.roll(grey[row], int(rng.integers(-3, 4)))
    return grey.T if across else grey


def _stain(rng: Random, grey: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Colour (Y, X) as (Y, X, 3): one dye on paper, or two that absorb."""
    amount = np.clip(grey, 0, 1)[..., None]
    if rng.random() < 0.5:
        ink, paper = rng.uniform(0, 0.7, 3), rng.uniform(0.5, 1, 3)
        colour = paper + (ink - paper) * amount
    else:
        size = grey.shape[0]
        pink = smooth_noise(rng, size, rng.uniform(6, 60))[..., None]
        pink = np.clip(rng.uniform(0.1, 0.5) + 0.15 * pink, 0, None) * (1 - amount / 2)
        dyes = [np.array(d) + rng.normal(0, 0.06, 3) for d in (HAEMATOXYLIN, EOSIN)]
        absorbed = rng.uniform(0.6, 1.6) * amount * dyes[0] + pink * dyes[1]
        colour = rng.uniform(0.85, 1, 3) * np.exp(-absorbed)
    return np.asarray(colour + rng.normal(0, 0.02, colour.shape))


def _digitise(
    rng: Random, values: npt.NDArray[np.float64], bits: int
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    values = np.clip(values, 0, 1)
    if bits == 8:
        return np.asarray(np.rint(values * 255), np.uint8)
    # cameras of 12 to 16 bits, above a dark level
    dark, full = rng.uniform(0, 500), 2.0 ** rng.uniform(12, 16) - 1
    return np.asarray(np.rint(dark + values * (full - dark)), np.uint16)
