"""What a session does by itself: it follows the viewer, and runs the model.

`widgets.session.Session` adds what a person can ask for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QCoreApplication

from napari_samseg.core.annotation_file import AnnotationDocument
from napari_samseg.core.annotation_replay import replay_annotation
from napari_samseg.core.errors import (
    InvalidPromptError,
    LayerError,
    SamSegError,
)
from napari_samseg.core.settings import ModelSettings
from napari_samseg.widgets.canvas_tools import CanvasTools
from napari_samseg.widgets.questions import Questions
from napari_samseg.widgets.replayer import Replayer
from napari_samseg.widgets.session_state import SessionState
from napari_samseg.widgets.workers import describe_failure

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from napari_samseg.core.models.protocol import PromptableModel
    from napari_samseg.core.types import MaskPrediction, Progress

__all__ = ["LiveSession"]


class LiveSession(SessionState):
    """Keeps the plane on view encoded, its prompts shown, and the history saved.

    All as long as somebody holds it.
    """

    def __init__(self, viewer: Viewer, image: Image) -> None:
        super().__init__(viewer, image)
        self._replayer = Replayer(
            self._replay_steps, self._on_replayed, self.progressed.emit
        )
        self._connect()
        self._find_plane()

    # -- what goes on --------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether something runs in the background."""
        return (
            self._masks.is_busy
            or self._target.is_scanning
            or self._autosaver.is_busy
            or self._replayer.is_busy
            or self._shown.is_moving
        )

    def wait(self, timeout: float = 60.0) -> None:
        """Let the background work finish, for scripts; seconds at most."""
        end = time.monotonic() + timeout
        while self.is_busy and time.monotonic() < end:
            QCoreApplication.processEvents()
            time.sleep(0.002)

    def after_commits(self, act: Callable[[], None]) -> None:
        """Do something once the commits that wait are done; at once if none does."""
        if len(self._waiting):
            self._waiting.add(act, act)
            self.changed.emit()
        else:
            act()

    def cancel(self) -> None:
        """Stop encoding, loading or downloading; a prompt or commit starts it again."""
        if self.can_cancel:
            self._masks.cancel()
            self._waiting.give_up()
            # what had waited is kept, but starts nothing
            self._masks.cancel()
            self.progressed.emit(None)
            self.report("Cancelled: click an object, or choose the model, to go on.")

    # -- life ----------------------------------------------------------------------

    def hold(self, holder: object) -> None:
        """Keep the session going for a widget or a script."""
        is_first = not self._holders
        self._holders.add(id(holder))
        self._preview.is_on = True
        if is_first:
            self._find_plane()
            self._preview.encode()
        self._after_change()

    def release(self, holder: object) -> None:
        """Give up a hold; the last one stops jobs and removes the prompt layers.

        Prompts, labels and history stay until the image or viewer is gone.
        """
        self._holders.discard(id(holder))
        self._preview.is_on = bool(self._holders)
        if not self._holders and self.is_open:
            self._stop()

    def attach(self, panel: Questions) -> None:
        """Serve a panel until `detach`: it is asked, and the mouse draws prompts."""
        self._panels.append(panel)
        self.hold(panel)
        tools = self.draw_on_canvas()
        tools.choose(tools.tool)

    def detach(self, panel: Questions) -> None:
        """Let a panel go; mouse and keys go with the last one."""
        self._panels = [other for other in self._panels if other is not panel]
        if not self._panels:
            self._put_tools_away()
        self.release(panel)

    def draw_on_canvas(self) -> CanvasTools:
        """Let prompts be drawn with the mouse; the same tools for all panels."""
        if self.tools is None:
            self.tools = CanvasTools(self)
        return self.tools

    def close(self) -> None:
        """End the session: stop jobs, save, remove the prompt layers."""
        if not self.is_open:
            return
        self._waiting.give_up()
        self.is_open = False
        self._stop()
        self._disconnect()
        self._target.close()
        self._masks.forget()
        self.annotation.close()
        self.closed.emit()

    def _connect(self) -> None:
        self._shown.rested.connect(self._follow_view)
        self._shown.transformed.connect(self._on_transform)
        self._shown.reported.connect(self.report)
        self._preview.settled.connect(self._settle)
        self._preview.reported.connect(self.report)
        self._masks.was_encoded.connect(self._on_encoded)
        self._masks.failed.connect(self._on_failed)
        self._masks.warned.connect(self._report_error)
        self._masks.progressed.connect(self.progressed.emit)
        self._target.changed.connect(self.changed.emit)
        self._target.painted.connect(self._on_stroke)
        # the file keeps what was committed; the next step starts another
        self._target.forgetting.connect(self._autosaver.start_anew)
        self._target.progressed.connect(self.progressed.emit)
        self._target.reported.connect(self.report)
        self.viewer.layers.events.removed.connect(self._on_layer_removed)
        # napari holds a function strongly, unlike a method: the image keeps its
        # session, and nothing else does, so that both can die with the viewer
        self._keep = lambda _: self._on_image_data()
        self.image.events.data.connect(self._keep)
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self._stop)

    def _disconnect(self) -> None:
        self._shown.close()
        self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
        self.image.events.data.disconnect(self._keep)
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.disconnect(self._stop)

    def _on_transform(self) -> None:
        self._target.follow(self.image, self.view)
        self._preview.show_prompts()
        self._preview.clear()
        self._preview.request()

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self.image:
            if self.annotation.planes:
                self.report(
                    f"image layer {self.image.name!r} was removed; its prompts are "
                    f"saved in {self.autosave_file}"
                )
            self.close()
            return
        if event.value is self.target:
            self._replayer.cancel()
        was_target = event.value is self.target
        if self._target.forget(event.value) and was_target:
            self.report("the target was removed; the next commit makes a new one")

    def _on_stroke(self) -> None:
        self._autosaver.save_soon()
        self.changed.emit()

    def _on_image_data(self) -> None:
        old_shape = self.view.shape
        try:
            self._shown.read_again()
        except SamSegError as error:
            self.report(str(error), is_error=True)
            return
        if len(self.view.shape) != len(old_shape):
            # made again, with as many axes as the image, when next shown
            self.layers.remove()
        if self.view.shape != old_shape:
            self._start_over()
            self.report("the image was replaced by one of another shape: start anew")
        self._encode_anew()

    def _start_over(self) -> None:
        """Begin another history: what was done cannot be undone on other planes."""
        self._replayer.cancel()
        self._autosaver.start_anew()
        self._target.close()
        self.annotation.reset()

    # -- planes and models ---------------------------------------------------------

    def _find_plane(self) -> None:
        self._shown.plane = self._shown.look()

    def _follow_view(self) -> None:
        """Encode the plane on view, if it is another one than before."""
        if not self.is_open:
            return
        after = self._shown.look()
        if after != self.plane:
            # what was drawn belongs to the plane that was on view
            self._waiting.give_up()
            self._shown.plane = after
            self._masks.forget()
            self._preview.show_prompts()
            self._preview.clear()
            self._preview.encode()
            self.changed.emit()

    def _use(
        self, model: PromptableModel | ModelSettings, *, anew: bool = False
    ) -> None:
        if anew or (model is not self._model and model != self._model):
            self._model = model
            self._masks.use(model)
            self._autosaver.start_anew()
            self._encode_anew()
        elif not self.is_encoded and not self._masks.is_encoding:
            self._preview.encode()

    def _encode_anew(self) -> None:
        """Encode again because the image, its contrast or the model is another."""
        self._masks.forget()
        self._find_plane()
        self._preview.encode()
        self._after_change()

    def _on_encoded(self) -> None:
        self.changed.emit()
        self._preview.request()

    def _on_failed(self, error: Exception) -> None:
        self._waiting.give_up()
        is_error = not isinstance(error, InvalidPromptError)
        self.report(describe_failure(error), is_error=is_error)

    def _predict_now(self) -> MaskPrediction:
        """Encode and decode on this thread, for scripts."""
        # a script that asks for masks goes on from them itself
        self._waiting.give_up()
        return self._preview.predict_now(self._require_plane())

    def _settle(self) -> None:
        self.changed.emit()
        self._waiting.run()

    # -- layers --------------------------------------------------------------------

    def _after_change(self, *, predict: bool = True) -> None:
        """Show, save and predict after the history has changed."""
        self._preview.show_prompts()
        self._object_colors.show(self.target)
        self._autosaver.save_soon()
        if predict:
            self._preview.request()
        self.changed.emit()

    def _step(self, move: Callable[[], Any]) -> bool:
        try:
            self._check_free()
            action = move()
        except LayerError as error:
            self.report(str(error), is_error=True)
            return True
        if action is None:
            return False
        plane = getattr(action, "plane", None)
        if plane is not None and plane != self.plane:
            # undo is seen where it acts
            self._shown.show(plane)
        self._after_change()
        return True

    # -- replay --------------------------------------------------------------------

    def _check_free(self) -> None:
        """Let nothing come between the steps of a replay, which may be undone."""
        if self._replayer.is_busy:
            raise LayerError("an annotation is being replayed: wait a moment")

    def _replay_steps(
        self, document: AnnotationDocument
    ) -> Generator[Progress, None, None]:
        """Check a document and replay it; a target made for it goes if it fails."""
        if document.header.shape != self.view.shape:
            raise LayerError(
                f"the annotation was made on an image of shape "
                f"{document.header.shape}, {self.image.name!r} has {self.view.shape}"
            )
        self._target.wait_for_ids()
        has_target = self.target is not None
        labels = self._require_target()
        try:
            yield from replay_annotation(document, self.annotation, labels)
        except BaseException:
            if not has_target:
                self._target.forget(labels.layer)
                if labels.layer in self.viewer.layers:
                    self.viewer.layers.remove(labels.layer)
            raise

    def _on_replayed(self, error: Exception | None) -> None:
        self.progressed.emit(None)
        if error is not None:
            self._report_error(f"nothing was replayed: {error}")
        self._after_change()

    def _stop(self) -> None:
        """Stop jobs, save, and take mouse, keys and prompt layers back."""
        self._shown.stop()
        self._waiting.give_up()
        self._replayer.cancel()
        self._masks.cancel()
        self._autosaver.save_now()
        self._put_tools_away()
        self.layers.remove()

    def _put_tools_away(self) -> None:
        tools, self.tools = self.tools, None
        if tools is not None:
            tools.close()
