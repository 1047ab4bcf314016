"""An image twice, beside itself, so that two results on it can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_samseg.adapters.prompt_layers import OWN
from napari_samseg.adapters.write_layers import place_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

__all__ = ["SideBySide"]

# Between the two, as a share of the width.
GAP = 0.04
LOOK = ("colormap", "contrast_limits", "gamma", "rgb", "multiscale", "blending")


class SideBySide:
    """Moves layers to the right of an image, onto a copy of it that shares its pixels.

    Parameters
    ----------
    viewer : ViewerModel
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._twins: dict[Image, Image] = {}
        # where they were
        self._moved: dict[Layer, npt.NDArray[np.float64]] = {}

    @property
    def twins(self) -> list[Image]:
        """The copies of images that are in the viewer."""
        return [twin for twin in self._twins.values() if twin in self._viewer.layers]

    def put(self, image: Image, layers: Sequence[Layer]) -> None:
        """Show layers beside an image; those that are there already stay."""
        if image not in self._viewer.layers:
            return
        if image not in self._twins:
            self._twins[image] = twin = self._copy(image)
            self._move(twin, image)
            self._viewer.reset_view()
        for layer in layers:
            if layer not in self._moved:
                self._move(layer, image)

    def end(self) -> None:
        """Put all layers back, and take the copies away."""
        for layer, place in self._moved.items():
            layer.translate = place
        for twin in self.twins:
            self._viewer.layers.remove(twin)
        had_any = bool(self._twins)
        self._moved.clear()
        self._twins.clear()
        if had_any:
            self._viewer.reset_view()

    def _copy(self, image: Image) -> Image:
        layers = self._viewer.layers
        active = layers.selection.active
        twin: Image = self._viewer.add_image(
            image.data,
            name=f"{image.name} (beside)",
            metadata={OWN: "twin"},
            **{name: getattr(image, name) for name in LOOK},
            **place_of(image),
        )
        layers.move(layers.index(twin), layers.index(image) + 1)
        layers.selection.active = active
        return twin

    def _move(self, layer: Layer, image: Image) -> None:
        self._moved[layer] = np.array(layer.translate)
        dims = self._viewer.dims
        axis = dims.displayed[-1] - dims.ndim
        step = np.zeros(image.ndim)
        low, high = image.extent.data[:, axis]
        step[axis] = (high - low + 1) * (1 + GAP)
        world = np.subtract(
            image.data_to_world(step), image.data_to_world(np.zeros(image.ndim))
        )
        # napari moves layers before their affine transform
        linear = np.asarray(layer.affine.linear_matrix)
        layer.translate = layer.translate + np.linalg.solve(
            linear, world[-layer.ndim :]
        )
