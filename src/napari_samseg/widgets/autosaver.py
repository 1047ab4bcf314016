"""Saves an annotation after every step, in a thread."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_samseg.adapters.plugin_settings import read_plugin_settings
from napari_samseg.core.annotation_file import (
    AnnotationHeader,
    Autosave,
    autosave_path,
)
from napari_samseg.core.types import Progress
from napari_samseg.widgets.workers import LatestJob

if TYPE_CHECKING:
    from napari_samseg.core.annotation import Annotation

__all__ = ["Autosaver"]


class Autosaver:
    """Keeps one file up to date; an annotation that is empty makes none.

    Parameters
    ----------
    annotation : Annotation
    describe : callable
        Gives the header of a new file.
    on_error : callable
        Told when a file cannot be written.
    """

    def __init__(
        self,
        annotation: Annotation,
        describe: Callable[[], AnnotationHeader],
        on_error: Callable[[str], None],
    ) -> None:
        self._annotation = annotation
        self._describe = describe
        self._on_error = on_error
        self._file: Autosave | None = None
        self._saving = LatestJob()
        self._revision = 0

    @property
    def path(self) -> Path | None:
        """Where the annotation is; None before the first step."""
        return None if self._file is None else self._file.path

    @property
    def is_busy(self) -> bool:
        """Whether a file is being written."""
        return self._saving.is_busy

    def save_soon(self) -> None:
        """Save in a thread; of several steps in a row the last is saved."""
        actions = self._annotation.actions
        if self._file is None:
            if not actions:
                return
            header, folder = self._describe(), read_plugin_settings().cache_path
            self._file = Autosave(autosave_path(header.image, folder), header)
        self._revision += 1
        self._saving.request(
            _save_steps(self._file, actions, self._revision),
            lambda _: None,
            self._fail,
        )

    def save_now(self) -> None:
        """Save before something ends."""
        self._saving.cancel()
        if self._file is not None:
            try:
                self._revision += 1
                self._file.save(self._annotation.actions, self._revision)
            except OSError as error:
                self._fail(error)

    def start_anew(self) -> None:
        """Finish this file; the next step starts another."""
        self.save_now()
        self._file = None

    def _fail(self, error: Exception) -> None:
        self._on_error(f"the annotation could not be saved in {self.path}: {error}")


def _save_steps(
    file: Autosave, actions: tuple[Any, ...], revision: int
) -> Generator[Progress, None, None]:
    yield Progress("saving")
    file.save(actions, revision)
