"""The prompts of many planes, of which layers show as many as napari can draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_samseg.adapters.prompt_data import layers_to_prompts, prompts_to_layers
from napari_samseg.adapters.write_layers import place_of
from napari_samseg.core.prompts.plane_job import join_prompts
from napari_samseg.core.types import PlanePrompts

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Points, Shapes

__all__ = ["SHOWN_PROMPTS", "PromptBook"]

# napari takes half a millisecond for each shape, while the window stands still: above
# this many prompts, only those of the plane on view are layers.
SHOWN_PROMPTS = 1000

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
        self._keep()
        return {plane: self._planes[plane] for plane in sorted(self._planes)}

    def remove(self) -> None:
        """Remove the layers from the viewer."""
        for layer in self.layers:
            self._viewer.layers.remove(layer)
        self._points = self._shapes = None

    def _keep(self) -> None:
        """Read what the layers show."""
        points = self._points if self._points in self.layers else None
        shapes = self._shapes if self._shapes in self.layers else None
        edited = layers_to_prompts(points, shapes)
        if not self.is_paged:
            self._planes = edited
        elif self._page is not None:
            self._planes.pop(self._page, None)
            for plane, prompts in edited.items():
                # what was drawn on another plane comes to what is there
                there = self._planes.get(plane)
                self._planes[plane] = (
                    prompts if there is None else join_prompts(there, prompts)
                )

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
