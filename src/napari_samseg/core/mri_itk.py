"""Bias field, registration and resampling of volumes, by SimpleITK."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError
from napari_samseg.core.io.nifti import NiftiVolume
from napari_samseg.core.optional import import_optional
from napari_samseg.core.types import BoolArray, Progress

__all__ = ["correct_bias", "load_itk", "register_steps", "resample"]

Matrix = npt.NDArray[np.float64]

# NIfTI counts towards right and front, ITK towards left and back.
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
# Voxels of about this size show the bias field, which changes slowly.
BIAS_MM = 4.0
BIAS_ITERATIONS = (50, 50, 50, 50)
HISTOGRAM_BINS = 50
# Voxels that the metric looks at, of each of three resolutions.
SAMPLES = 50_000
SHRINK = (4, 2, 1)
SMOOTHING_MM = (2.0, 1.0, 0.0)
ITERATIONS = 200
SEED = 1
# Axes of a volume that are less square than this are sheared.
MOST_SHEAR = 1e-2


def load_itk() -> Any:
    """Import SimpleITK, or say how to get it."""
    return import_optional(
        "SimpleITK", "napari-samseg[mri]", "volumes are prepared by SimpleITK"
    )


def correct_bias(volume: NiftiVolume, mask: BoolArray) -> npt.NDArray[np.float32]:
    """Even out slow changes of brightness.

    Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 2010. The field is
    found on voxels of about 4 mm, and applied to all of them.

    Parameters
    ----------
    volume : NiftiVolume
        (Z, Y, X).
    mask : (Z, Y, X) bool
        Where the field is found; values that are not positive are left out.

    Raises
    ------
    InvalidImageError
        If nothing in the mask is positive.
    """
    itk = load_itk()
    array = volume.array.astype(np.float32)
    inside = mask & (array > 0)
    if not inside.any():
        raise InvalidImageError("no voxel is positive, so there is no bias to correct")
    image, where = _to_itk(array, volume), _to_itk(inside.astype(np.uint8), volume)
    shrink = [
        max(1, min(round(BIAS_MM / step), n // 8))
        for step, n in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    corrector = itk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(BIAS_ITERATIONS)
    corrector.Execute(itk.Shrink(image, shrink), itk.Shrink(where, shrink))
    field = itk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image))
    corrected: npt.NDArray[np.float32] = (array / np.exp(field)).astype(np.float32)
    return corrected


def register_steps(
    moving: NiftiVolume, fixed: NiftiVolume, kind: str
) -> Generator[Progress, None, Matrix]:
    """Find where a volume lies in another one, by mutual information.

    Mattes et al., "PET-CT image registration in the chest using free-form
    deformations", IEEE TMI 2003; three resolutions, from the best of three starts
    (where the volume is, middle to middle, mass to mass). Seeded.

    Parameters
    ----------
    moving, fixed : NiftiVolume
        (Z, Y, X).
    kind : "rigid" or "affine"

    Returns
    -------
    (4, 4) float64
        Takes millimetres (R, A, S, 1) of `fixed` to those of `moving`.
    """
    itk = load_itk()
    images = [_to_itk(v.array.astype(np.float32), v) for v in (fixed, moving)]
    yield Progress("registering", detail="rigid")
    rigid = _best_start(images)
    _optimise(images, rigid)
    if kind == "rigid":
        return _matrix_of(rigid)
    yield Progress("registering", detail="affine")
    affine = itk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    _optimise(images, affine)
    return _matrix_of(affine)


def resample(
    volume: NiftiVolume, fixed: NiftiVolume, matrix: Matrix, *, nearest: bool = False
) -> npt.NDArray[Any]:
    """Bring a volume to the voxels of another one.

    Parameters
    ----------
    volume, fixed : NiftiVolume
        (Z, Y, X).
    matrix : (4, 4) float64
        See `register_steps`.
    nearest : bool
        Take the value of the nearest voxel, as labels need; between voxels linearly if
        not.

    Returns
    -------
    (Z, Y, X) of `fixed`
        Integers as they were where `nearest`, else float32; 0 outside.
    """
    itk = load_itk()
    kind = np.uint32 if nearest else np.float32
    transform = itk.AffineTransform(3)
    towards_left = FLIP @ matrix @ FLIP
    transform.SetMatrix(towards_left[:3, :3].ravel().tolist())
    transform.SetTranslation(towards_left[:3, 3].tolist())
    grid = _to_itk(np.zeros(fixed.array.shape, np.uint8), fixed)
    image = _to_itk(volume.array.astype(kind), volume)
    how = itk.sitkNearestNeighbor if nearest else itk.sitkLinear
    moved = itk.Resample(image, grid, transform, how, 0.0, image.GetPixelID())
    array: npt.NDArray[Any] = itk.GetArrayFromImage(moved)
    return array.astype(volume.array.dtype if nearest else np.float32)


def _to_itk(array: npt.NDArray[Any], volume: NiftiVolume) -> Any:
    """Return an array as an image of SimpleITK that lies where a volume does."""
    affine = FLIP @ volume.space.affine
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / steps
    left, _, right = np.linalg.svd(axes)
    if np.abs(left @ right - axes).max() > MOST_SHEAR:
        raise InvalidImageError(
            "the axes of the volume are not at right angles: resample it first"
        )
    image = load_itk().GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(steps.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _method(images: list[Any]) -> Any:
    itk = load_itk()
    method = itk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    size = np.array(images[0].GetSize())
    # thin stacks keep enough planes
    levels = [i for i, factor in enumerate(SHRINK) if min(size) // factor >= 8] or [2]
    shares = [min(1.0, SAMPLES / np.prod(size / SHRINK[i])) for i in levels]
    method.SetMetricSamplingPercentagePerLevel(shares, SEED)
    method.SetShrinkFactorsPerLevel([SHRINK[i] for i in levels])
    method.SetSmoothingSigmasPerLevel([SMOOTHING_MM[i] for i in levels])
    method.SetInterpolator(itk.sitkLinear)
    return method


def _best_start(images: list[Any]) -> Any:
    """Return the rigid transform, of three, at which the images agree most."""
    itk = load_itk()
    starts = []
    for initial in ("GEOMETRY", "MOMENTS"):
        how = getattr(itk.CenteredTransformInitializerFilter, initial)
        start = itk.CenteredTransformInitializer(*images, itk.Euler3DTransform(), how)
        starts.append(itk.Euler3DTransform(start))
    where_it_is = itk.Euler3DTransform()
    where_it_is.SetCenter(starts[0].GetCenter())

    def disagreement(start: Any) -> float:
        method = _method(images)
        share = min(1.0, SAMPLES / images[0].GetNumberOfPixels())
        method.SetMetricSamplingPercentage(share, SEED)
        method.SetInitialTransform(start)
        try:
            return float(method.MetricEvaluate(*images))
        # the images do not overlap there
        except RuntimeError:
            return math.inf

    return min([where_it_is, *starts], key=disagreement)


def _optimise(images: list[Any], transform: Any) -> None:
    method = _method(images)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-4, numberOfIterations=ITERATIONS
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(*images)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InvalidImageError(
            f"the volumes cannot be registered, for they hardly overlap: {reason}"
        ) from error


def _matrix_of(transform: Any) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre, move = np.array(transform.GetCenter()), transform.GetTranslation()
    matrix[:3, 3] = centre + move - matrix[:3, :3] @ centre
    turned: Matrix = FLIP @ matrix @ FLIP
    return turned
