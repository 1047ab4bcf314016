"""The layers that instances are made from, watched for what is done to them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_samseg.adapters.instance_layers import layer_array, seeds_of
from napari_samseg.adapters.read_layers import is_colour
from napari_samseg.widgets.instance_steps import ClassInputs

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Points

__all__ = ["ClassLayers"]

# Of a Points layer: all that says where its points are, and of which objects.
SEED_EVENTS = ("data", "features", "scale", "translate", "rotate", "shear", "affine")


class ClassLayers:
    """A layer of classes, and what some methods take beside it.

    Signals: `repainted`, when pixels have changed; `reseeded`, when points have, or
    others were chosen.

    Attributes
    ----------
    source, myelin : Image, Labels or None
    seeds : Points or None
    """

    repainted = Signal()
    reseeded = Signal()

    def __init__(self) -> None:
        self.source: Image | Labels | None = None
        self.myelin: Image | Labels | None = None
        self.seeds: Points | None = None
        self._watched: list[Image | Labels] = []

    def use(self, source: Image | Labels | None, myelin: Image | Labels | None) -> None:
        """Look at other layers from now on."""
        for layer in self._watched:
            layer.events.data.disconnect(self._on_pixels)
            if hasattr(layer.events, "paint"):
                layer.events.paint.disconnect(self._on_pixels)
        self.source, self.myelin = source, myelin
        self._watched = [layer for layer in (source, myelin) if layer is not None]
        for layer in self._watched:
            layer.events.data.connect(self._on_pixels)
            if hasattr(layer.events, "paint"):
                layer.events.paint.connect(self._on_pixels)

    def use_seeds(self, seeds: Points | None) -> None:
        """Grow objects from other points from now on."""
        if self.seeds is not None:
            for name in SEED_EVENTS:
                self.seeds.events[name].disconnect(self._on_seeds)
        self.seeds = seeds
        if seeds is not None:
            for name in SEED_EVENTS:
                seeds.events[name].connect(self._on_seeds)
        self.reseeded.emit()

    def inputs(self, method: str) -> ClassInputs:
        """Return what a method reads of them, as it is now; there must be a source.

        Raises
        ------
        LayerError
            If points are no seeds of it.
        """
        source = self.source
        myelin = self.myelin if method == "axon-myelin" else None
        inputs = _class_inputs(
            source, None if myelin is None else _class_inputs(myelin)
        )
        if method == "points" and self.seeds is not None:
            return replace(inputs, seeds=seeds_of(self.seeds, source))
        return inputs

    def _on_pixels(self) -> None:
        self.repainted.emit()

    def _on_seeds(self) -> None:
        self.reseeded.emit()


def _class_inputs(
    layer: Image | Labels, myelin: ClassInputs | None = None
) -> ClassInputs:
    from napari.layers import Image as ImageLayer

    return ClassInputs(
        layer_array(layer),
        f"layer {layer.name!r}",
        is_colour(layer),
        isinstance(layer, ImageLayer),
        myelin,
    )
