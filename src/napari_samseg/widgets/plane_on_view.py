"""Which plane of an image its viewer shows, and how its pixels are read and lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_samseg.adapters.read_layers import (
    ImageView,
    canvas_to_data,
    choose_level,
    current_plane,
    world_to_canvas,
)
from napari_samseg.core.errors import LayerError
from napari_samseg.core.painting import PlaneKey
from napari_samseg.core.settings import ImageSettings

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

__all__ = ["PlaneOnView"]

# Slices are passed quickly while a slider moves: look where it rests.
SLICE_REST_MS = 150
# What moves an image layer in the world, or says what its axes are.
TRANSFORMS = (
    *("scale", "translate", "rotate", "shear", "affine"),
    *("units", "axis_labels"),
)


class PlaneOnView:
    """Follows a viewer through an image, until `close`.

    `rested` comes once a slider rests, on whatever plane: `plane` is as it was before.
    `transformed` comes when the layer lies elsewhere, and `view` says where. `reported`
    comes with why there is no plane on view.

    Parameters
    ----------
    viewer : Viewer
    image : Image

    Attributes
    ----------
    settings : ImageSettings
        Resolution level and contrast.
    view : ImageView
        The image at that level.
    plane : PlaneKey or None
        The plane on view when somebody looked last; None where there was none.
    """

    rested = Signal()
    transformed = Signal()
    reported = Signal(str)

    def __init__(self, viewer: Viewer, image: Image) -> None:
        self._viewer, self._image = viewer, image
        self.settings = ImageSettings(level=choose_level(image))
        self.view = ImageView.of_layer(image, self.settings.level)
        self.plane: PlaneKey | None = None
        self._rest = QTimer()
        self._rest.setSingleShot(True)
        self._rest.setInterval(SLICE_REST_MS)
        self._rest.timeout.connect(self._settle)
        for event in self._dims_events():
            event.connect(self._on_dims)
        for name in TRANSFORMS:
            getattr(image.events, name).connect(self._on_moved)

    @property
    def is_moving(self) -> bool:
        """Whether a slider has not rested yet."""
        return bool(self._rest.isActive())

    def look(self) -> PlaneKey | None:
        """Return the plane that the viewer shows now; None, and a report, if none."""
        try:
            return self._current()
        except LayerError as error:
            self.reported.emit(str(error))
            return None

    def require(self) -> PlaneKey:
        """Return the plane on view, where a slider has been moved to if it moves.

        Raises
        ------
        LayerError
            If there is none.
        """
        if self.is_moving:
            self._settle()
        return self._current() if self.plane is None else self.plane

    def point(self, position: Sequence[float]) -> npt.NDArray[np.float64]:
        """Turn a position on the canvas into (y, x) pixels of the plane on view."""
        data = canvas_to_data(position, self._viewer.dims, self._image)
        return self.view.data_to_plane(data, self.require())

    def show(self, plane: PlaneKey) -> None:
        """Bring a plane on view."""
        dims = self._viewer.dims
        middle = np.array([np.array(self.view.plane_size(plane)) / 2])
        pixel = self.view.plane_to_pixels(middle, plane)[0]
        world = self.view.matrix[:-1, :-1] @ pixel + self.view.matrix[:-1, -1]
        world = world_to_canvas(world, dims, self._image)
        offset = dims.ndim - len(world)
        lead = [axis for axis in range(len(world)) if axis not in plane.axes]
        displayed = {axis + offset for axis in plane.axes}
        if set(dims.displayed) == displayed and lead:
            dims.set_point([axis + offset for axis in lead], [world[a] for a in lead])
            self._settle()

    def use(self, settings: ImageSettings) -> None:
        """Read the image otherwise from now on."""
        if settings.level != self.settings.level:
            self.view = ImageView.of_layer(self._image, settings.level)
        self.settings = settings

    def read_again(self) -> None:
        """Take the pixels that the layer holds now, which may have fewer levels.

        Raises
        ------
        LayerError, InvalidImageError
            If they cannot be read as planes; all stays as it was.
        """
        level = min(self.settings.level, choose_level(self._image))
        self.view = ImageView.of_layer(self._image, level)
        self.settings = replace(self.settings, level=level)

    def stop(self) -> None:
        """Wait for no slider any more."""
        self._rest.stop()

    def close(self) -> None:
        """Follow the viewer no longer."""
        self.stop()
        for event in self._dims_events():
            event.disconnect(self._on_dims)
        for name in TRANSFORMS:
            getattr(self._image.events, name).disconnect(self._on_moved)

    def _dims_events(self) -> tuple[Any, ...]:
        events = self._viewer.dims.events
        return events.point, events.order, events.ndisplay

    def _current(self) -> PlaneKey:
        return current_plane(self._viewer.dims, self._image, self.settings.level)

    def _on_dims(self) -> None:
        self._rest.start()

    def _settle(self) -> None:
        self._rest.stop()
        self.rested.emit()

    def _on_moved(self) -> None:
        self.view = ImageView.of_layer(self._image, self.settings.level)
        self.transformed.emit()
