"""Segment real images that come with scikit-image, to see that all works.

Otsu's threshold finds objects; a point or a box taken from each of them prompts
the model; the masks are compared with the objects they were prompted on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.io.label_image import write_label_image
from napari_samseg.core.io.output import check_output_folder
from napari_samseg.core.io.picture import write_picture
from napari_samseg.core.metrics.overlap import mask_iou
from napari_samseg.core.overlay import draw_overlay
from napari_samseg.core.types import FOREGROUND, PADDING, PlanePrompts, Progress

if TYPE_CHECKING:
    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.predict import Predictor
    from napari_samseg.core.settings import ModelSettings
    from napari_samseg.core.types import BoolArray, IntArray, MaskPrediction

__all__ = [
    "DEMO_IMAGES",
    "DemoImage",
    "DemoObject",
    "DemoReport",
    "DemoResult",
    "run_demo",
]

Image = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class DemoImage:
    """A real image and how Otsu's threshold finds objects in it.

    Attributes
    ----------
    description : str
        What is in the picture.
    read : callable
        Returns the image, (Y, X) or (Y, X, 3) uint8.
    find_objects : callable
        Returns instance labels (Y, X) int64 of the image.
    by_boxes : bool
        Every object is prompted by its box, instead of every other one: what is
        small or stands in a crowd, a point alone leaves open.
    """

    description: str
    read: Callable[[], Image]
    find_objects: Callable[[Image], IntArray]
    by_boxes: bool = False


@dataclass(frozen=True, slots=True)
class DemoObject:
    """One object: how it was prompted and how well its mask fits.

    Attributes
    ----------
    object_id : int
    prompt : str
        "point" or "box".
    area : int
        Of the mask, in pixels.
    iou : float
        With the Otsu component it was prompted on.
    iou_prediction : float
        What the model itself expects.
    """

    object_id: int
    prompt: str
    area: int
    iou: float
    iou_prediction: float


@dataclass(frozen=True, slots=True, eq=False)
class DemoResult:
    """What was done with one image.

    Attributes
    ----------
    name : str
        Key in `DEMO_IMAGES`.
    image : (Y, X) or (Y, X, 3) uint8
    labels : (Y, X) uint16
    objects : tuple of DemoObject
    seconds : mapping of str to float
        Time of each step, in their order.
    labels_path, overlay_path : Path
        The files written.
    """

    name: str
    image: Image
    labels: npt.NDArray[np.uint16]
    objects: tuple[DemoObject, ...]
    seconds: dict[str, float]
    labels_path: Path
    overlay_path: Path


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo did.

    Attributes
    ----------
    model, device : str
    load_seconds : float
        Time to import torch and load the model.
    results : tuple of DemoResult
    """

    model: str
    device: str
    load_seconds: float
    results: tuple[DemoResult, ...] = field(default=())


def run_demo(
    folder: Path, settings: ModelSettings
) -> Generator[Progress, None, DemoReport]:
    """Segment every image of `DEMO_IMAGES` and write labels and pictures.

    Parameters
    ----------
    folder : Path
        Gets ``<name>_labels.tif`` (uint16) and ``<name>_overlay.png`` of each image.
    settings : ModelSettings
        Model, device and precision.

    Raises
    ------
    OutputError
        If `folder` is a file, or lies below one.
    UnknownNameError, MissingFileError, CheckpointError, DownloadError, DeviceError
        If the model cannot be loaded there.
    """
    check_output_folder(folder)
    yield Progress("loading the model", 0, len(DEMO_IMAGES))
    start = time.perf_counter()
    from napari_samseg.core.predict import Predictor

    model: PromptableModel = yield from model_steps(settings)
    load_seconds = time.perf_counter() - start
    predictor = Predictor(model)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for done, name in enumerate(DEMO_IMAGES):
        yield Progress(f"segmenting {name}", done, len(DEMO_IMAGES))
        results.append(_segment_image(name, predictor, folder))
    yield Progress("done", len(DEMO_IMAGES), len(DEMO_IMAGES))
    return DemoReport(model.name, str(model.device), load_seconds, tuple(results))


def _segment_image(name: str, predictor: Predictor, folder: Path) -> DemoResult:
    from napari_samseg.core.contrast import normalise_plane
    from napari_samseg.core.predict import predict_masks

    stopwatch = _Stopwatch()
    with stopwatch("read"):
        image = DEMO_IMAGES[name].read()
        plane = normalise_plane(image)
    with stopwatch("find objects"):
        reference = DEMO_IMAGES[name].find_objects(image)
        prompts = prompts_of_objects(reference, by_boxes=DEMO_IMAGES[name].by_boxes)
    with stopwatch("encode"):
        embedding = predictor.encode(plane)
    with stopwatch("decode"):
        prediction = predict_masks(predictor.model, embedding, prompts)
    labels_path = folder / f"{name}_labels.tif"
    overlay_path = folder / f"{name}_overlay.png"
    labels = prediction.to_labels(np.uint16)
    with stopwatch("write"):
        write_label_image(labels_path, labels)
        write_picture(overlay_path, draw_overlay(plane, prediction, prompts))
    return DemoResult(
        name,
        image,
        labels,
        _compare(prediction, prompts, reference),
        stopwatch.seconds,
        labels_path,
        overlay_path,
    )


def prompts_of_objects(labels: IntArray, *, by_boxes: bool = False) -> PlanePrompts:
    """Prompt every other object by its innermost pixel, the others by their box.

    Parameters
    ----------
    labels : (Y, X) int64
        Instance labels.
    by_boxes : bool
        Prompt all by their box.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import regionprops

    regions = regionprops(labels)
    n = len(regions)
    points = np.zeros((n, 1, 2), np.float32)
    point_labels = np.full((n, 1), PADDING, np.int8)
    boxes = np.full((n, 4), np.nan, np.float32)
    for i, region in enumerate(regions):
        if by_boxes or i % 2:
            boxes[i] = region.bbox
        else:
            depth = distance_transform_edt(np.pad(region.image, 1))[1:-1, 1:-1]
            innermost = np.unravel_index(depth.argmax(), depth.shape)
            points[i, 0] = np.add(region.bbox[:2], innermost)
            point_labels[i, 0] = FOREGROUND
    ids = np.array([region.label for region in regions], np.int64)
    return PlanePrompts(ids, points, point_labels, boxes)


def _compare(
    prediction: MaskPrediction, prompts: PlanePrompts, reference: IntArray
) -> tuple[DemoObject, ...]:
    objects = []
    for i, object_id in enumerate(prediction.object_ids):
        y0, x0, y1, x1 = prediction.boxes_yx[i]
        mask = np.zeros(reference.shape, bool)
        mask[y0:y1, x0:x1] = prediction.crops[i]
        objects.append(
            DemoObject(
                object_id=int(object_id),
                prompt="box" if prompts.has_box[i] else "point",
                area=int(mask.sum()),
                iou=mask_iou(mask, reference == object_id),
                iou_prediction=float(prediction.iou_predictions[i]),
            )
        )
    return tuple(objects)


class _Stopwatch:
    """Times named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


def _read_sample(name: str) -> Image:
    from skimage import data

    image: Image = getattr(data, name)()
    return image


def _find_bright_objects(image: Image) -> IntArray:
    """Label what is brighter than Otsu's threshold, 500 pixels or more, off the border.

    Holes are filled, since coins are embossed.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage.filters import threshold_otsu
    from skimage.morphology import closing
    from skimage.segmentation import clear_border

    bright = closing(image > threshold_otsu(image), np.ones((3, 3)))
    solid = binary_fill_holes(bright)
    return _label_large(clear_border(solid), smallest=500)


def _find_stained_nuclei(image: Image) -> IntArray:
    """Label compact regions that take up much haematoxylin.

    The stain is separated as in Ruifrok & Johnston 2001, smoothed, and thresholded
    by Otsu's method; what is not compact is several nuclei and left out.
    """
    from scipy.ndimage import binary_opening
    from skimage.color import rgb2hed
    from skimage.filters import gaussian, threshold_otsu

    stain = gaussian(rgb2hed(image)[..., 0], 1.5)
    blue = binary_opening(stain > threshold_otsu(stain), iterations=2)
    return _label_large(blue, smallest=120, largest=600, solidity=0.92)


def _label_large(
    mask: BoolArray, smallest: int, largest: int | None = None, solidity: float = 0.0
) -> IntArray:
    from skimage.measure import label, regionprops

    components = label(mask)
    labels = np.zeros(mask.shape, np.int64)
    object_id = 0
    for region in regionprops(components):
        too_large = largest is not None and region.area > largest
        if region.area < smallest or too_large or region.solidity < solidity:
            continue
        object_id += 1
        labels[components == region.label] = object_id
    return labels


DEMO_IMAGES: dict[str, DemoImage] = {
    "coins": DemoImage(
        "Greek coins from Pompeii, uneven light",
        lambda: _read_sample("coins"),
        _find_bright_objects,
    ),
    "cell": DemoImage(
        "A cell under a quantitative phase microscope",
        lambda: _read_sample("cell"),
        _find_bright_objects,
    ),
    "nuclei": DemoImage(
        "Colonic glands, nuclei blue with haematoxylin",
        lambda: _read_sample("immunohistochemistry"),
        _find_stained_nuclei,
        by_boxes=True,
    ),
}
