"""Layers to learn from, and layers that show what was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.adapters.prompt_layers import OWN
from napari_samseg.adapters.read_layers import ImageView
from napari_samseg.adapters.refined_layer import label_data
from napari_samseg.adapters.side_by_side import SideBySide
from napari_samseg.adapters.write_layers import empty_labels, place_of
from napari_samseg.core.errors import InvalidLabelsError, LayerError, SamSegError

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_samseg.core.training.preview import PreviewPlane

__all__ = ["AFTER", "BEFORE", "BeforeAfter", "LabelPlace", "guess_image", "view_under"]

BEFORE, AFTER = "before", "preview"
COLORS = {BEFORE: "#ff9f43", AFTER: "#3ddc97"}
# In the metadata of layers that may be written again: training, image, kind.
RUN = "napari_samseg_run"


def view_under(image: Image, labels: Labels, shape: tuple[int, ...]) -> ImageView:
    """Return the level of an image on whose pixels labels lie.

    Parameters
    ----------
    image : Image
    labels : Labels
    shape : tuple of int
        Of the labels.

    Raises
    ------
    InvalidLabelsError
        If there is none.
    LayerError
        If the layers lie elsewhere in the world.
    """
    n_levels = len(image.data) if image.multiscale else 1
    for level in range(n_levels):
        view = ImageView.of_layer(image, level)
        if view.shape == shape:
            if view.is_under(labels):
                return view
            raise LayerError(
                f"Labels layer {labels.name!r} does not lie on image layer "
                f"{image.name!r}: give both the same scale and place"
            )
    raise InvalidLabelsError(
        f"image layer {image.name!r} has shape {ImageView.of_layer(image).shape}, and "
        f"Labels layer {labels.name!r} {shape}: they do not belong together"
    )


def guess_image(
    labels: Labels, images: Sequence[Image], layers: Sequence[Any]
) -> tuple[list[Image], str]:
    """Find the images that labels lie on, the likeliest first.

    That is one whose name is in theirs, or else the next one below them.

    Returns
    -------
    images : list of Image
    why : str
        What keeps the labels from the last image, where there are none.
    """
    shape = tuple(label_data(labels).shape)
    fitting, why = [], "add an image that these labels lie on"
    for image in images:
        try:
            view_under(image, labels, shape)
        except SamSegError as error:
            why = str(error)
        else:
            fitting.append(image)
    order = list(layers)
    place = order.index(labels)

    def rank(image: Image) -> tuple[bool, bool, int]:
        below = place - order.index(image)
        return (image.name not in labels.name, below < 0, abs(below))

    return sorted(fitting, key=rank), why


@dataclass(frozen=True, slots=True, eq=False)
class LabelPlace:
    """Where labels lie, whatever becomes of their layer.

    Attributes
    ----------
    image : Image
    shape : tuple of int
    place : dict
        Arguments for a layer that lies there, too.
    """

    image: Image
    shape: tuple[int, ...]
    place: Mapping[str, Any]

    @classmethod
    def of(cls, image: Image, labels: Labels) -> LabelPlace:
        """Remember where a layer lies."""
        return cls(image, tuple(label_data(labels).shape), place_of(labels))


class BeforeAfter:
    """Masks of a model before and after it learned, as outlines in two layers.

    A layer that somebody removes does not come back. Layers of the same title that
    are in the viewer already are used again, unless somebody renamed or edited them:
    then they are that person's, and others are made.

    Parameters
    ----------
    viewer : ViewerModel
    title : str
        Of the layers; the name of the training.
    places : mapping of str to LabelPlace
        By the names that planes give their images; planes of others are not shown.
    folder : Path
        For labels too large for memory.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        title: str,
        places: Mapping[str, LabelPlace],
        folder: Path,
    ) -> None:
        self._viewer, self._title = viewer, title
        self._places, self._folder = dict(places), folder
        self._layers: dict[tuple[str, str], Labels] = {}
        self._apart = SideBySide(viewer)

    def layers(self, which: str) -> list[Labels]:
        """Return the layers of `BEFORE` or `AFTER` that are in the viewer."""
        return [
            layer
            for (_, kind), layer in self._layers.items()
            if kind == which and layer in self._viewer.layers
        ]

    @property
    def has_layers(self) -> bool:
        """Whether there is something to show or hide."""
        return bool(self.layers(BEFORE) or self.layers(AFTER))

    @property
    def twins(self) -> list[Image]:
        """The copies of images on which `AFTER` is shown side by side."""
        return self._apart.twins

    def show_only(self, *shown: str, is_apart: bool = False) -> None:
        """Hide the layers of all others.

        Parameters
        ----------
        *shown : str
            `BEFORE`, `AFTER` or both.
        is_apart : bool
            Show the image twice, and `AFTER` on the right one.
        """
        for which in (BEFORE, AFTER):
            for layer in self.layers(which):
                layer.visible = which in shown
        if not is_apart:
            self._apart.end()
            return
        for (name, which), layer in self._layers.items():
            if which == AFTER and layer in self._viewer.layers and name in self._places:
                self._apart.put(self._places[name].image, [layer])

    def show(self, which: str, planes: Sequence[PreviewPlane]) -> None:
        """Show masks in place of those that were there on their planes."""
        for name in dict.fromkeys(plane.image for plane in planes):
            layer = self._layer(name, which)
            if layer is None:
                continue
            own = [plane for plane in planes if plane.image == name]
            for plane in own:
                layer.data[plane.plane] = 0
            for plane in own:
                y0, x0, y1, x1 = plane.box_yx
                region = (*plane.plane, slice(y0, y1), slice(x0, x1))
                below = np.asarray(layer.data[region])
                layer.data[region] = np.where(plane.labels > 0, plane.labels, below)
            layer.refresh()

    def _layer(self, name: str, which: str) -> Labels | None:
        key, place = (name, which), self._places.get(name)
        known = self._layers.get(key)
        if known is not None and known not in self._viewer.layers:
            return None
        found = self._find(name, which)
        if found is not None:
            self._layers[key] = found
            return found
        if place is None or place.image not in self._viewer.layers:
            return None
        self._layers[key] = layer = self._add(place, name, which)
        return layer

    def _find(self, name: str, which: str) -> Labels | None:
        """Return the layer of this training that nobody has made their own."""
        run = (self._title, name, which)
        for layer in self._viewer.layers:
            if layer.metadata.get(RUN) == run:
                return layer
        return None

    def _add(self, place: LabelPlace, name: str, which: str) -> Labels:
        from napari.utils.colormaps import DirectLabelColormap

        title = f"{self._title} {which}"
        if len(self._places) > 1:
            title = f"{title} ({place.image.name})"
        active = self._viewer.layers.selection.active
        layer = self._viewer.add_labels(
            empty_labels(place.shape, self._folder, title),
            name=title,
            colormap=DirectLabelColormap(
                color_dict={None: COLORS[which], 0: "transparent"}
            ),
            opacity=1.0,
            metadata={OWN: which, RUN: (self._title, name, which)},
            **place.place,
        )
        layer.contour = max(1, round(min(place.shape[-2:]) / 300))
        layer.editable = False
        for event in (layer.events.name, layer.events.data, layer.events.labels_update):
            event.connect(_leave_alone)
        # who annotates goes on annotating
        self._viewer.layers.selection.active = active
        return layer


def _leave_alone(event: Any) -> None:
    """Note that somebody has renamed or edited a layer, which is theirs from now on."""
    event.source.metadata.pop(RUN, None)
