"""Before a training: find the objects, divide them, encode what shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.cache.lookup import EntryFinder
from napari_samseg.core.embed.stack import Stack, stack_recipe
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.geometry import choose_tile
from napari_samseg.core.models.batching import Encoded, encode_planes_steps
from napari_samseg.core.models.lanes import Lanes, choose_lanes
from napari_samseg.core.planes import MODEL_PIXELS, MeasuredPlane, measure_plane
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects
from napari_samseg.core.settings import AugmentSettings, TileSettings, TuneSettings
from napari_samseg.core.tiled import plan_tiles
from napari_samseg.core.training.augment import augment
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.images import (
    LabelledImage,
    LabelledPlane,
    distinct,
    divide,
)
from napari_samseg.core.training.packed import ObjectWriter
from napari_samseg.core.training.survey import read_labels
from napari_samseg.core.training.views import (
    BITS,
    FrameWriter,
    View,
    ViewSet,
    open_store,
)
from napari_samseg.core.types import FloatArray, Progress

if TYPE_CHECKING:
    from napari_samseg.core.cache.entry import StackEntry
    from napari_samseg.core.cache.key import EmbeddingKey
    from napari_samseg.core.geometry import Box
    from napari_samseg.core.models.sam import SamModel

__all__ = ["prepare_steps"]

Labels = npt.NDArray[np.integer]


def prepare_steps(
    images: Sequence[LabelledImage],
    planes: Sequence[LabelledPlane],
    model: SamModel,
    folder: Path,
    settings: TuneSettings,
    *,
    augmenting: AugmentSettings,
    tiles: TileSettings,
    seed: int = 0,
    stores: Sequence[str] = (),
    trains: bool = True,
) -> Generator[Progress, None, ViewSet]:
    """Make the views of a training in its folder.

    Embeddings that are in a store are taken from there; what was encoded before an
    interruption is not encoded again.

    Parameters
    ----------
    images : sequence of LabelledImage
    planes : sequence of LabelledPlane
        Those with objects; see `napari_samseg.core.training.survey.survey_steps`.
    model : SamModel
    folder : Path
    settings : TuneSettings
    augmenting : AugmentSettings
    tiles : TileSettings
        How planes larger than the model's input are cut, as when prompting.
    seed : int
        Of the division and the variants.
    stores : sequence of str
        Where embeddings of the images may lie.
    trains : bool
        Without, there are only views to validate on: of all planes where a plan
        validates on none, for all of it is unseen then.

    Raises
    ------
    InvalidLabelsError
        If classes are to be balanced and there are none, or objects have gone.
    InvalidImageError
        If a plane cannot be read.
    CacheError
        If embeddings cannot be written.
    ModelMemoryError
        If memory runs out for one view.
    """
    images = distinct(images)
    if settings.balance == "classes":
        _check_classes(images)
    training, validation, split = divide(planes, settings, seed)
    if not trains:
        training, validation = [], validation or training
    work = _Preparation(images, model, folder, settings, augmenting, tiles, seed)
    work.stores = stores
    with ObjectWriter(folder / BITS) as work.writer:
        yield from work.run(training, validation)
    views = ViewSet(folder, work.views, work.writer.read(), split)
    if trains and not views.training:
        raise InvalidLabelsError(
            "no object is left to train on: the labels have changed since they were "
            "looked through; start again"
        )
    views.save()
    return views


@dataclass(slots=True, eq=False)
class _Preparation:
    images: Sequence[LabelledImage]
    model: SamModel
    folder: Path
    settings: TuneSettings
    augmenting: AugmentSettings
    tiles: TileSettings
    seed: int
    stores: Sequence[str] = ()
    views: list[View] = field(default_factory=list)
    writer: ObjectWriter = field(init=False)
    _frames: FrameWriter | None = None
    _finder: EntryFinder = field(default_factory=EntryFinder)
    _entries: dict[tuple[int, int], StackEntry] = field(default_factory=dict)
    _classes: dict[int, int] = field(default_factory=dict)
    _asked: set[tuple[str, EmbeddingKey]] = field(default_factory=set)

    def run(
        self,
        training: Sequence[LabelledPlane],
        validation: Sequence[LabelledPlane],
    ) -> Generator[Progress, None, None]:
        if self.settings.needs_pixels:
            self._frames = FrameWriter(self.folder, self.model.input_size)
        n_lanes = choose_lanes(self.model)
        lanes: Lanes[_ToEncode, list[Encoded]] = Lanes(n_lanes)
        done, total = 0, len(training) + len(validation)
        stage = "reading" if self.settings.needs_pixels else "encoding"
        for is_validation, planes in ((False, training), (True, validation)):
            for plane in planes:
                for job in self._views_of(plane, is_validation=is_validation):
                    while not lanes.is_free:
                        self._keep(lanes)
                        yield Progress(f"{stage} planes", done, total)
                    steps = encode_planes_steps(
                        self.model, [job.pixels], on_cpu=False, alone=n_lanes == 1
                    )
                    lanes.start(job, steps)
                done += 1
                yield Progress(f"{stage} planes", done, total)
        while lanes.is_busy:
            self._keep(lanes)
            yield Progress(f"{stage} planes", done, total)

    @staticmethod
    def _keep(lanes: Lanes[_ToEncode, list[Encoded]]) -> None:
        for finished in lanes.advance():
            job = finished.key
            ((embedding, _),) = finished.value
            sized = dataclasses.replace(embedding, original_size=job.size)
            job.entry.put_tiles(job.plane, job.plane_digest, {job.tile: sized})

    def _views_of(
        self, at: LabelledPlane, *, is_validation: bool
    ) -> Iterator[_ToEncode]:
        """Write the views of a plane; yield those that are to be encoded."""
        image = self.images[at.image]
        labels = read_labels(image, at.plane)
        objects = index_objects(labels, min_area=self.settings.min_area)
        # this side's; labels may have changed since they were looked through
        objects = objects.select(np.isin(objects.object_ids, at.object_ids))
        if not len(objects):
            return
        if self.settings.balance == "classes" and isinstance(image.labels, ClassPlanes):
            self._classes = _classes_of(objects, image.labels.class_plane(at.plane))
        plane = measure_plane(image.source, at.plane, image.settings)
        boxes = plan_tiles(plane.size, self.model.input_size, self.tiles)
        shown = np.array(
            [choose_tile(boxes, box, plane.size) for box in objects.boxes_yx]
        )
        for number in np.unique(shown).tolist():
            members = objects.object_ids[shown == number]
            only = np.where(np.isin(labels, members), labels, 0)
            n_variants = 1 if is_validation else self.augmenting.variants
            for variant in range(n_variants):
                yield from self._view(
                    at, plane, only, (number, boxes[number]), variant, is_validation
                )

    def _view(
        self,
        at: LabelledPlane,
        plane: MeasuredPlane,
        labels: Labels,
        tile: tuple[int, Box],
        variant: int,
        is_validation: bool,
    ) -> Iterator[_ToEncode]:
        number, box = tile
        pixels = plane.read(box, MODEL_PIXELS)
        shown = _cut(labels, box, pixels.shape[:2])
        if variant:
            rng = np.random.default_rng(
                [self.seed, at.image, *at.plane, number, variant]
            )
            pixels, shown = augment(pixels, shown, self.augmenting, rng)
        objects = index_objects(
            shown, min_area=self.settings.min_area if variant else 1
        )
        if not len(objects):  # moved out of sight
            return
        size = pixels.shape[0], pixels.shape[1]
        first = len(self.writer)
        self.writer.add(objects, self._classes)
        view = View(
            self.images[at.image].name,
            at.plane,
            box,
            variant,
            size,
            first,
            len(self.writer),
            is_validation,
            plane.digest,
        )
        if self._frames is not None:
            frame = self._frames.add(pixels)
            self.views.append(dataclasses.replace(view, frame=frame))
            return
        entry = self._entry(at.image, variant)
        self.views.append(dataclasses.replace(view, entry=entry.recipe.digest))
        key = entry.recipe.key(at.plane, box, plane.digest)
        # objects on both sides may share a tile, which is not written at once
        asked = entry.recipe.digest, key
        if asked in self._asked:
            return
        self._asked.add(asked)
        if entry.get(key) is None and not self._copy(at, plane, number, variant, entry):
            yield _ToEncode(entry, at.plane, plane.digest, number, size, pixels)

    def _entry(self, image: int, variant: int) -> StackEntry:
        """Return where embeddings of a variant of an image lie in the folder."""
        if (image, variant) not in self._entries:
            source = self.images[image]
            stack = Stack(source.source, source.name, source.settings)
            recipe = stack_recipe(stack, self.model, self.tiles)
            if variant:
                what = f"{variant}, seed {self.seed}, {self.augmenting.encoded}"
                preprocessing = (*recipe.preprocessing, ("variant", what))
                recipe = dataclasses.replace(recipe, preprocessing=preprocessing)
            entry = open_store(self.folder).entry(recipe)
            assert entry is not None  # a store that is written makes it
            self._entries[image, variant] = entry
        return self._entries[image, variant]

    def _copy(
        self,
        at: LabelledPlane,
        plane: MeasuredPlane,
        number: int,
        variant: int,
        entry: StackEntry,
    ) -> bool:
        """Take an embedding from a store, if one has it."""
        if variant:
            return False
        for store in self.stores:
            found = self._finder.find(store, entry.recipe, (at.plane, plane.digest))
            if found is None:
                continue
            tile = entry.recipe.tiles[number]
            embedding = found.get(found.recipe.key(at.plane, tile, plane.digest))
            if embedding is not None:
                entry.put_tiles(at.plane, plane.digest, {number: embedding})
                return True
        return False


def _classes_of(objects: ObjectIndex, classes: Labels) -> dict[int, int]:
    """Return the class of each object by its id."""
    first = classes.ravel()[objects.pixels[objects.starts]]
    return dict(zip(objects.object_ids.tolist(), first.tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _ToEncode:
    """A view whose embedding is missing."""

    entry: StackEntry
    plane: tuple[int, ...]
    plane_digest: str
    tile: int
    size: tuple[int, int]
    pixels: FloatArray


def _check_classes(images: Sequence[LabelledImage]) -> None:
    for image in images:
        if not isinstance(image.labels, ClassPlanes):
            raise InvalidLabelsError(
                f"the labels of {image.name} tell objects apart, not classes: balance "
                "images or objects, or say that labels are classes (semantic)"
            )


def _cut(labels: Labels, box: Box, size: tuple[int, ...]) -> npt.NDArray[Any]:
    """Cut a tile out of labels, thinned to the size of its pixels."""
    y0, x0, y1, x1 = box
    cut = labels[y0:y1, x0:x1]
    if cut.shape != size:
        rows, columns = (
            ((np.arange(n) + 0.5) * length / n).astype(np.int64)
            for n, length in zip(size, cut.shape, strict=True)
        )
        cut = cut[np.ix_(rows, columns)]
    return cut
