"""Drawing prompts on the canvas: mouse, hover and keys of one session.

Everything is bound through `ViewerBindings`, and unbound again. Mouse buttons
are read only while the prompt layer or the image is active, so that napari's
tools of all other layers keep working.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer

from napari_samseg.core.errors import SamSegError
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.widgets.viewer_bindings import ViewerBindings

if TYPE_CHECKING:
    from napari.layers import Labels, Layer, Points

    from napari_samseg.widgets.session import Session

__all__ = ["SHORTCUTS", "TOOLS", "CanvasTools", "Tool"]

HOVER_MS = 60
# A press that moves less than this, in screen pixels, is a click.
CLICK_PIXELS = 4
# How closely the vertices of a drawn line follow the mouse, in pixels.
LINE_STEP = 1.5


@dataclass(frozen=True, slots=True)
class Tool:
    """What the mouse draws.

    Attributes
    ----------
    title, help : str
        Label and tooltip of its button.
    drag : str or None
        Kind of gesture that a drag makes; None leaves dragging to napari.
    """

    title: str
    help: str
    drag: str | None


TOOLS: dict[str, Tool] = {
    "click": Tool(
        "Click",
        "Click: this is the object. Right click or Shift+click: this is not. "
        "Drag: a box around it.",
        "box",
    ),
    "box": Tool("Box", "Drag a box around an object.", "box"),
    "scribble": Tool(
        "Scribble",
        "Drag a line through the object; with the right button or Shift, through "
        "what is not the object.",
        "scribble",
    ),
    "lasso": Tool(
        "Lasso",
        "Draw around the object; with the right button or Shift, around what is "
        "not the object.",
        "lasso",
    ),
    "label": Tool(
        "From label",
        "Click an existing label to start from it; then refine and commit: it "
        "keeps its id.",
        None,
    ),
    "pan": Tool("Pan", "Leave the mouse to napari.", None),
}

# Key, what it does, and the method that does it; keys of the prompt layer only,
# where napari itself uses P, S, A, Z, 1 to 5 and Space.
SHORTCUTS: tuple[tuple[str, str, str], ...] = (
    ("C", "commit", "commit"),
    ("Enter", "commit", "commit"),
    ("Escape", "clear the prompts", "clear"),
    ("N", "next object", "next_object"),
)
# Bound on the viewer, the prompt layer and the target, as each masks the next.
HISTORY_KEYS: tuple[tuple[str, str], ...] = (
    ("Control-Z", "undo"),
    ("Control-Shift-Z", "redo"),
)


class CanvasTools:
    """Mouse and keys of one session.

    Parameters
    ----------
    session : Session

    Attributes
    ----------
    tool : str
        Key in `TOOLS`.
    label_source : Labels or None
        Layer that the label tool reads; the target if None.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.tool = "click"
        self.label_source: Labels | None = None
        self._current: int | None = None
        self._pointer: tuple[float, ...] | None = None
        self._points: Points | None = None
        self._bindings = ViewerBindings.of(session.viewer)
        self._hover = QTimer()
        self._hover.setSingleShot(True)
        self._hover.setInterval(HOVER_MS)
        self._hover.timeout.connect(self._show_hover)
        session.viewer.layers.selection.events.active.connect(self._on_active)
        session.changed.connect(self._on_change)
        self._bindings.take_up(self)
        self._bindings.claim_keys(session.viewer, HISTORY_KEYS, self)

    def choose(self, tool: str) -> None:
        """Take a tool; drawing needs the prompt layer to be active."""
        self.tool = tool
        self._bindings.take_up(self)
        if tool != "pan":
            self.session.layers.activate()
            self._bind_keys()

    def close(self) -> None:
        """Give mouse and keys back."""
        self._hover.stop()
        active = self.session.viewer.layers.selection.events.active
        active.disconnect(self._on_active)
        self.session.changed.disconnect(self._on_change, missing_ok=True)
        self._bindings.give_back(self)

    # -- objects -------------------------------------------------------------------

    def next_object(self) -> None:
        """Let the next gesture start another object."""
        self._current = None
        self.session.report("the next prompt starts another object")

    def commit(self) -> None:
        """Commit what is previewed."""
        self.session.request_commit()

    def clear(self) -> None:
        """Clear the prompts on the plane."""
        self.session.clear()

    def undo(self) -> None:
        """Undo the last step."""
        if not self.session.undo():
            self.session.report("nothing to undo")

    def redo(self) -> None:
        """Redo the step last undone."""
        if not self.session.redo():
            self.session.report("nothing to redo")

    def add(self, gesture: Gesture) -> None:
        """Add a finished gesture to the object it belongs to.

        Behind a commit that waits for its masks it waits, too.
        """
        self.session.after_commits(lambda: self._add(gesture))

    def _add(self, gesture: Gesture) -> None:
        try:
            self._current = self.session.add_gesture(gesture, self._object_for(gesture))
        except SamSegError as error:
            self.session.report(str(error), is_error=True)

    def _object_for(self, gesture: Gesture) -> int | None:
        """Object that a gesture speaks of; None for a new one.

        One by one, everything refines the current object. With several at
        once, each positive gesture starts an object; a negative one belongs to
        the object under it, else to the current one.
        """
        plane = self.session.plane
        prompts = {} if plane is None else self.session.annotation.prompts(plane)
        if not prompts:
            return None
        if self._current not in prompts and not self.session.several:
            return None if self._current is None else list(prompts)[-1]
        if self.session.several and gesture.positive:
            return None
        under = self._object_under(gesture.vertices_yx[0])
        if self.session.several and under in prompts:
            return under
        return self._current if self._current in prompts else list(prompts)[-1]

    def _object_under(self, point_yx: Any) -> int | None:
        prediction = self.session.prediction
        if prediction is None:
            return None
        y, x = (round(float(v)) for v in point_yx)
        for object_id, crop, (y0, x0, y1, x1) in zip(
            prediction.object_ids, prediction.crops, prediction.boxes_yx, strict=True
        ):
            if y0 <= y < y1 and x0 <= x < x1 and crop[y - y0, x - x0]:
                return int(object_id)
        return None

    # -- mouse ---------------------------------------------------------------------

    def has_layer(self, layer: Layer) -> bool:
        """Whether a layer is the image or shows its prompts."""
        return layer is self.session.image or layer in self.session.layers.layers

    def _draws(self) -> bool:
        """Whether the mouse is ours now."""
        if self.tool == "pan" or self.session.viewer.dims.ndisplay != 2:
            return False
        active = self.session.viewer.layers.selection.active
        if active is None or active is self.session.image:
            return _mode(active) == "pan_zoom"
        return active in self.session.layers.layers and _mode(active) == "pan_zoom"

    def on_drag(self, event: Any) -> Generator[None, None, None] | None:
        """Draw a gesture, if the mouse is ours."""
        if not self._draws() or event.button not in (1, 2):
            return None
        # Control and Alt leave the mouse to napari, for panning and zooming
        if {"Control", "Alt"} & {modifier.name for modifier in event.modifiers}:
            return None
        return self._draw(event)

    def _draw(self, event: Any) -> Generator[None, None, None]:
        """Follow one press of a mouse button until it is released."""
        positive = event.button == 1 and "Shift" not in {
            m.name for m in event.modifiers
        }
        active = self.session.viewer.layers.selection.active
        pans = active is not None and active.mouse_pan
        if pans:
            active.mouse_pan = False
        try:
            start = np.array(event.pos)
            vertices = [self._where(event)]
            is_drag = False
            yield
            while event.type == "mouse_move":
                is_drag |= (
                    float(np.abs(np.array(event.pos) - start).max()) > CLICK_PIXELS
                )
                self._extend(vertices, self._where(event), positive, is_drag)
                yield
            self._finish(vertices, positive, is_drag)
        except SamSegError as error:
            self.session.report(str(error), is_error=True)
        finally:
            if pans:
                active.mouse_pan = True

    def _where(self, event: Any) -> Any:
        return self.session.point_on_plane(event.position)

    def _extend(self, vertices: list[Any], at: Any, positive: bool, drag: bool) -> None:
        kind = TOOLS[self.tool].drag
        if not drag or kind is None:
            return
        if kind == "box":
            vertices[1:] = [at]
        elif np.abs(at - vertices[-1]).max() >= LINE_STEP:
            vertices.append(at)
        self._show_rubber_band(kind, vertices, positive)

    def _finish(self, vertices: list[Any], positive: bool, is_drag: bool) -> None:
        kind = TOOLS[self.tool].drag
        self._show_rubber_band(kind, [], positive)
        # C and the other keys belong to the prompt layer
        self.session.layers.activate()
        if self.tool == "label":
            self.session.after_commits(lambda: self._pick(vertices[0]))
        elif is_drag and kind is not None and len(vertices) > 1:
            self.add(Gesture(kind, np.array(vertices), positive))
        else:
            self.add(Gesture("click", np.array(vertices[:1]), positive))

    def _pick(self, point_yx: Any) -> None:
        layer = self.label_source or self.session.target
        if layer is None:
            self.session.report("there is no Labels layer to take a label from")
            return
        try:
            self._current = self.session.pick_label(layer, point_yx)
        except SamSegError as error:
            self.session.report(str(error), is_error=True)

    def _show_rubber_band(
        self, kind: str | None, vertices: list[Any], positive: bool
    ) -> None:
        plane = self.session.plane
        if plane is None or kind is None:
            return
        gesture = None
        if len(vertices) > 1:
            gesture = Gesture(kind, np.array(vertices), positive)
        self.session.layers.show_rubber_band(self.session.view, plane, gesture)

    def on_move(self, event: Any) -> None:
        """Preview what a click would give, once the pointer rests a moment."""
        if self.session.hover_enabled and self._draws():
            self._pointer = tuple(event.position)
            if not self._hover.isActive():
                self._hover.start()

    def _show_hover(self) -> None:
        if self._pointer is None or not self.session.is_encoded:
            return
        try:
            self.session.hover(self.session.point_on_plane(self._pointer))
        except SamSegError:
            # the pointer left the image, or the viewer went to 3D
            return

    # -- keys ----------------------------------------------------------------------

    def _on_active(self) -> None:
        if self.session.viewer.layers.selection.active in self.session.layers.layers:
            self._bind_keys()

    def _on_change(self) -> None:
        target = self.session.target
        if target is not None:
            self._bindings.claim_keys(target, HISTORY_KEYS, self)
        if self._points is not None and self._drawn_points() not in (
            None,
            self._points,
        ):
            self._return_to_prompts()

    def _drawn_points(self) -> Points | None:
        from napari.layers import Points

        own = self.session.layers.layers
        return next((layer for layer in own if isinstance(layer, Points)), None)

    def _return_to_prompts(self) -> None:
        """Go on with the new prompt layer after somebody has deleted the last one."""
        active = self.session.viewer.layers.selection.active
        if self.tool != "pan" and (active is None or self.has_layer(active)):
            self.session.layers.activate()
        self._bind_keys()

    def _bind_keys(self) -> None:
        self._points = self.session.layers.points
        keys = [*HISTORY_KEYS, *((key, method) for key, _, method in SHORTCUTS)]
        self._bindings.claim_keys(self._points, keys, self)


def _mode(layer: Layer | None) -> str:
    return "pan_zoom" if layer is None else str(layer.mode).rsplit(".", 1)[-1].lower()
