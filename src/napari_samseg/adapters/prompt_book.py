"""The prompts of many planes, of which layers show as many as napari can draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.adapters.prompt_data import layers_to_prompts, prompts_to_layers
from napari_samseg.adapters.write_layers import place_of
from napari_samseg.core.prompts.plane_job import SampledPrompts, join_prompts
from napari_samseg.core.types import PlanePrompts

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Points, Shapes

__all__ = ["SHOWN_PROMPTS", "KeptPrompts", "PromptBook", "kept_prompts"]

# napari takes half a millisecond for each shape, while the window stands still: above
# this many prompts, only those of the plane on view are layers.
SHOWN_PROMPTS = 1000

KEY = "napari-samseg: prompts"

Plane = tuple[int, ...]
Drawing = tuple[Any, dict[str, Any]]


class PromptBook:
    """Prompts by plane, shown as a Shapes and a Points layer that can be edited.

    Where there are too many, the layers hold one plane, as a page of a book does;
    what a person has edited is read before the page is turned.

    Parameters
    ----------
    viewer : ViewerModel
    labels : Labels or Image
        The layer that the prompts lie on.

    Attributes
    ----------
    is_paged : bool
        The layers show the plane on view only.
    """

    def __init__(self, viewer: ViewerModel, labels: Labels | Image) -> None:
        self._viewer = viewer
        self._labels = labels
        self._name = str(labels.name)
        self._planes: dict[Plane, PlanePrompts] = {}
        self._page: Plane | None = None
        self._points: Points | None = None
        self._shapes: Shapes | None = None
        self.is_paged = False

    def is_of(self, labels: Labels | Image, viewer: ViewerModel) -> bool:
        """Whether these are the prompts of a layer, in a viewer."""
        return self._labels is labels and self._viewer is viewer

    @property
    def layers(self) -> list[Any]:
        """The layers that are in the viewer."""
        both = (self._shapes, self._points)
        return [v for v in both if v is not None and v in self._viewer.layers]

    def show(self, planes: Mapping[Plane, PlanePrompts], page: Plane | None) -> None:
        """Take the place of what was shown before.

        Parameters
        ----------
        planes : mapping of plane to PlanePrompts
        page : tuple of int or None
            The plane on view; None where there is none.
        """
        self._planes = dict(planes)
        n = sum(len(p) + int(p.n_points.sum()) for p in planes.values())
        self.is_paged = n > SHOWN_PROMPTS and len(planes) > 1
        self._page = None
        self._draw(self._planes if not self.is_paged else self._of_page(page))
        self._page = page if self.is_paged else None

    def turn(self, page: Plane | None) -> None:
        """Show another plane, where the layers show only one.

        Raises
        ------
        LayerError, InvalidPromptError
            If what was edited is no prompt; the page stays.
        """
        if not self.is_paged or page == self._page:
            return
        self._keep()
        self._draw(self._of_page(page))
        self._page = page

    def read(self) -> dict[Plane, PlanePrompts]:
        """Return all prompts, as a person left them.

        Raises
        ------
        LayerError, InvalidPromptError
            See `napari_samseg.adapters.prompt_data.layers_to_prompts`.
        """
        if self._keep():
            # else what lies on another plane came to it each time
            self._draw(self._of_page(self._page))
        return {plane: self._planes[plane] for plane in sorted(self._planes)}

    def remove(self) -> None:
        """Remove the layers from the viewer."""
        for layer in self.layers:
            self._viewer.layers.remove(layer)
        self._points = self._shapes = None

    def _keep(self) -> bool:
        """Read what the layers show; return whether some of it is of another page."""
        points = self._points if self._points in self.layers else None
        shapes = self._shapes if self._shapes in self.layers else None
        edited = layers_to_prompts(points, shapes, floor=self._highest_elsewhere())
        if not self.is_paged:
            self._planes = edited
            return False
        if self._page is not None:
            self._planes.pop(self._page, None)
        for plane, prompts in edited.items():
            # what was drawn on another plane comes to what is there
            there = self._planes.get(plane)
            self._planes[plane] = (
                prompts if there is None else join_prompts(there, prompts)
            )
        return any(plane != self._page for plane in edited)

    def _highest_elsewhere(self) -> int:
        """Highest id that may belong to an object which the layers do not show."""
        hidden = self._planes if self.is_paged else {}
        ids = [p.object_ids for plane, p in hidden.items() if plane != self._page]
        highest = max((int(i.max(initial=0)) for i in ids), default=0)
        data = self._labels.data
        # to read all of what lies on disk would take longer than the window may stand
        if isinstance(data, np.ndarray) and data.dtype.kind in "iu":
            highest = max(highest, int(data.max(initial=0)))
        return highest

    def _of_page(self, page: Plane | None) -> dict[Plane, PlanePrompts]:
        found = None if page is None else self._planes.get(page)
        return {} if page is None or found is None else {page: found}

    def _draw(self, planes: Mapping[Plane, PlanePrompts]) -> None:
        """Show prompts in the layers that are there, or in new ones.

        Layers stay where they can: a new one takes napari a second.
        """
        size = max(3.0, min(self._labels.extent.data[1, -2:] + 1) / 100)
        found = {
            kind: (data, arguments)
            for data, arguments, kind in prompts_to_layers(
                planes, name=self._name, point_size=size, **place_of(self._labels)
            )
        }
        active = self._viewer.layers.selection.active
        self._shapes = self._draw_shapes(found.get("shapes"))
        self._points = self._draw_points(found.get("points"))
        if active is not None and active in self._viewer.layers:
            self._viewer.layers.selection.active = active

    def _draw_shapes(self, found: Drawing | None) -> Shapes | None:
        layer = self._shapes if self._shapes in self.layers else None
        if layer is not None:
            layer.data = []
        if found is None:
            return layer
        data, look = found
        if layer is None:
            layer = self._viewer.add_shapes(data, text=_id_text(data), **look)
            layer.events.data.connect(_free_drawn_boxes)
        else:
            names = ("shape_type", "edge_color", "edge_width", "face_color")
            layer.add(data, **{name: look[name] for name in names})
            layer.features = look["features"]
        _name_none(layer)
        return layer

    def _draw_points(self, found: Drawing | None) -> Points | None:
        layer = self._points if self._points in self.layers else None
        if layer is not None:
            # emptied first: napari keeps the looks of points whose number stays
            layer.data = np.empty((0, self._labels.ndim))
        if found is None:
            return layer
        data, look = found
        if layer is None:
            # where there are boxes, these carry the ids
            text = None if self._shapes in self.layers else _id_text(data)
            layer = self._viewer.add_points(data, text=text, **look)
        else:
            layer.data = data
            layer.features = look["features"]
            layer.face_color, layer.size = look["face_color"], look["size"]
        _name_none(layer)
        return layer


@dataclass(eq=False)
class KeptPrompts:
    """All prompts of a Labels layer, and those that they took the place of.

    Attributes
    ----------
    book : PromptBook
    sampled : SampledPrompts
        With all that layers do not show: masks, and objects that got no prompt.
    has_begun : bool
        Prompts were made or read, even if none is left.
    before : (dict of plane to PlanePrompts, SampledPrompts) or None
        What `restore` puts back.
    """

    book: PromptBook
    sampled: SampledPrompts = field(default_factory=SampledPrompts)
    has_begun: bool = False
    before: tuple[dict[Plane, PlanePrompts], SampledPrompts] | None = None

    def take(
        self, sampled: SampledPrompts, page: Plane | None, *, is_part: bool
    ) -> None:
        """Show prompts, beside those of other planes or in place of all.

        Parameters
        ----------
        sampled : SampledPrompts
        page : tuple of int or None
            The plane on view.
        is_part : bool
            Planes that are not in `sampled` keep their prompts, with their edits.

        Raises
        ------
        LayerError, InvalidPromptError
            If what was edited is no prompt; all stays.
        """
        edited = self.book.read() if self.has_begun else {}
        if self.has_begun:
            self.before = edited, self.sampled
        planes = sampled.planes
        if is_part:
            planes = edited | planes
            sampled = SampledPrompts(
                self.sampled.planes | sampled.planes,
                self.sampled.object_ids | sampled.object_ids,
                sampled.counts,
            )
        self._show(planes, sampled, page)

    def restore(self, page: Plane | None) -> None:
        """Put back what was there before; what is there now can be put back then.

        Raises
        ------
        LayerError, InvalidPromptError
            If what was edited is no prompt; all stays.
        """
        if self.before is not None:
            planes, sampled = self.before
            self.before = self.book.read(), self.sampled
            self._show(planes, sampled, page)

    def _show(
        self,
        planes: dict[Plane, PlanePrompts],
        sampled: SampledPrompts,
        page: Plane | None,
    ) -> None:
        self.sampled, self.has_begun = sampled, True
        self.book.show({plane: planes[plane] for plane in sorted(planes)}, page)


def kept_prompts(labels: Labels, viewer: ViewerModel) -> KeptPrompts:
    """Return the prompts of a Labels layer, with which they stay.

    So neither a panel that is closed nor another choice of labels loses an edit.
    """
    found = labels.metadata.get(KEY)
    # a copy of a layer has the metadata of the first
    if not isinstance(found, KeptPrompts) or not found.book.is_of(labels, viewer):
        found = KeptPrompts(PromptBook(viewer, labels))
        labels.metadata[KEY] = found
    return found


def _id_text(data: Any) -> dict[str, Any]:
    return {
        "string": "{object}",
        "color": "white",
        "size": 8,
        "anchor": "upper_left",
        "translation": np.zeros(np.shape(data)[-1]),
    }


def _name_none(layer: Any) -> None:
    """Let what a person draws be no object that is there already."""
    layer.feature_defaults = layer.feature_defaults.assign(object=0)


def _free_drawn_boxes(event: Any) -> None:
    """Let boxes that a person draws be objects of their own.

    napari gives them the object of the box that was selected last, and an object has
    one box. Points keep it: several belong to one object.
    """
    layer = event.source
    if str(getattr(event, "action", "")) != "added":
        return
    drawn = [index % len(layer.data) for index in event.data_indices]
    features = layer.features.copy()
    features.loc[drawn, "object"] = 0
    layer.features = features
