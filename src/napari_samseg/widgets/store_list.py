"""What is in a store of embeddings, to be verified and deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_samseg.core.amounts import count_things, describe_bytes
from napari_samseg.core.cache.health import repair, verify
from napari_samseg.core.cache.lookup import has_store
from napari_samseg.core.cache.manage import delete, list_entries
from napari_samseg.core.cache.place import free_bytes
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError
from napari_samseg.core.types import Progress
from napari_samseg.widgets.workers import LatestJob, describe_failure

if TYPE_CHECKING:
    from napari_samseg.core.cache.health import EntryReport, VerifyReport
    from napari_samseg.core.cache.manage import EntrySummary

__all__ = ["StoreList"]

EMPTY = "Nothing has been stored here yet."
ROLE = Qt.ItemDataRole.UserRole


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a look into a store found."""

    entries: tuple[EntrySummary, ...]
    free: int | None


class StoreList(QWidget):
    """Lists the entries of a store, those of the image on show first.

    All looks into the store are taken in the background, and give way to clicks.
    """

    reported = Signal(str, bool)
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._location = self._image = ""
        self._picked = ""
        self._listing, self._working = (LatestJob(background=True) for _ in range(2))
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        self._list = QListWidget()
        self._list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._list.setSpacing(2)
        self._list.setFixedHeight(124)
        self._total = QLabel(EMPTY)
        self._total.setWordWrap(True)
        self._verify_button = QPushButton("Verify")
        self._verify_button.setToolTip("Read every plane and compare its checksum")
        self._delete_button = QPushButton("Delete ...")
        self._delete_button.setToolTip("Remove these embeddings from the disk")
        buttons = QHBoxLayout()
        buttons.addWidget(self._verify_button)
        buttons.addWidget(self._delete_button)
        rows.addWidget(self._list)
        rows.addWidget(self._total)
        rows.addLayout(buttons)
        self._list.itemClicked.connect(self._pick)
        self._list.itemSelectionChanged.connect(self._enable)
        self._verify_button.clicked.connect(self._on_verify)
        self._delete_button.clicked.connect(self._on_delete)
        for job in (self._listing, self._working):
            self.destroyed.connect(job.cancel)
        self._enable()

    @property
    def is_busy(self) -> bool:
        """Whether the store is being looked at or changed."""
        return self._listing.is_busy or self._working.is_busy

    def show_store(self, location: str, image: str) -> None:
        """List what is at a place, marking what belongs to an image."""
        self._location, self._image = location, image
        self.refresh()

    def refresh(self) -> None:
        """Look again."""
        steps = _list_steps(self._location)
        self._listing.request(steps, self._fill, self._show_nothing)

    def cancel(self) -> None:
        """Stop looking."""
        self._listing.cancel()
        self._working.cancel()

    # -- what is shown -------------------------------------------------------------

    def _fill(self, listing: _Listing) -> None:
        if not isalive(self._list):  # the answer comes after the window
            return
        self._list.clear()
        for entry in sorted(listing.entries, key=lambda entry: not self._is_own(entry)):
            item = QListWidgetItem(_describe(entry, is_own=self._is_own(entry)))
            item.setData(ROLE, entry)
            item.setToolTip(_describe_fully(entry))
            self._list.addItem(item)
            if entry.digest == self._picked:
                self._list.setCurrentItem(item)
        if self._list.count() and self._list.currentItem() is None:
            self._list.setCurrentRow(0)
        self._total.setText(_sum_up(listing))
        self._enable()

    def _show_nothing(self, error: Exception) -> None:
        if not isalive(self._list):  # the answer comes after the window
            return
        self._list.clear()
        self._total.setText(str(error).replace("/", "/\u200b"))
        self._enable()

    def _is_own(self, entry: EntrySummary) -> bool:
        return entry.recipe is not None and entry.recipe.image == self._image

    def _chosen(self) -> EntrySummary | None:
        item = self._list.currentItem()
        return None if item is None else item.data(ROLE)

    def _pick(self, item: QListWidgetItem) -> None:
        self._picked = item.data(ROLE).digest

    def _enable(self) -> None:
        is_working = self._working.will_answer
        self._verify_button.setText("Stop" if is_working else "Verify")
        self._verify_button.setEnabled(is_working or self._chosen() is not None)
        self._delete_button.setEnabled(not is_working and self._chosen() is not None)

    # -- what is done --------------------------------------------------------------

    def _on_verify(self) -> None:
        entry = self._chosen()
        if self._working.will_answer:
            self._working.cancel()
            self._enable()
            self.reported.emit("Stopped.", False)
        elif entry is not None:
            self._work(_verify_steps(self._location, entry.digest), self._on_verified)

    def _on_verified(self, report: VerifyReport) -> None:
        self._enable()
        (entry,) = report.entries
        text = _describe_health(entry)
        is_off = bool(entry.damaged or entry.problems)
        self.reported.emit(text, is_off)
        if is_off and self.ask(
            "Repair",
            f"{text}\n\nRepair it? Damaged planes are set aside, and encoded again by "
            "the next run.",
        ):
            self._work(_repair_steps(self._location, entry.digest), self._on_repaired)

    def _on_repaired(self, lines: list[str]) -> None:
        self.reported.emit("\n".join(lines) or "There was nothing to repair.", False)
        self.refresh()
        self.changed.emit()

    def _on_delete(self) -> None:
        entry = self._chosen()
        if entry is None:
            return
        if self.ask(
            "Delete",
            f"{_describe_fully(entry)}\n\nDelete these embeddings? They would have to "
            "be encoded again.",
        ):
            self._work(_delete_steps(self._location, entry.digest), self._on_deleted)

    def _on_deleted(self, nbytes: int) -> None:
        self.reported.emit(f"{describe_bytes(nbytes)} were freed.", False)
        self.refresh()
        self.changed.emit()

    def ask(self, title: str, question: str) -> bool:
        """Ask a person before something is changed."""
        answer = QMessageBox.question(self, title, question)
        return answer == QMessageBox.StandardButton.Yes

    def _work(
        self, steps: Generator[Progress, None, Any], on_return: Callable[[Any], None]
    ) -> None:
        self._working.request(steps, on_return, self._refuse, self._on_progress)
        self._enable()

    def _on_progress(self, progress: Progress) -> None:
        self.reported.emit(
            f"{progress.stage}: {progress.done} of {progress.total}", False
        )

    def _refuse(self, error: Exception) -> None:
        self.reported.emit(describe_failure(error), True)
        self._enable()


def _list_steps(location: str) -> Generator[Progress, None, _Listing]:
    yield Progress("looking through the store")
    entries: list[EntrySummary] = []
    if has_store(location):
        entries = yield from list_entries(EmbeddingStore(location, write=False))
    return _Listing(tuple(entries), free_bytes(location))


def _verify_steps(
    location: str, digest: str
) -> Generator[Progress, None, VerifyReport]:
    yield Progress("verifying")
    return (yield from verify(EmbeddingStore(location, write=False), digest))


def _repair_steps(location: str, digest: str) -> Generator[Progress, None, list[str]]:
    return (yield from repair(location, digest))


def _delete_steps(location: str, digest: str) -> Generator[Progress, None, int]:
    store = EmbeddingStore(location)
    for entry in (yield from list_entries(store)):
        if entry.digest == digest and entry.in_use:
            raise CacheError(
                "these embeddings are being written: cancel that first, or wait"
            )
    return (yield from delete(store, digest))


# -- words -----------------------------------------------------------------------------


def _describe(entry: EntrySummary, *, is_own: bool) -> str:
    recipe = entry.recipe
    if recipe is None:
        return f"{entry.digest[:8]}: cannot be read\n{describe_bytes(entry.nbytes)}"
    name = recipe.image.rstrip("/").rpartition("/")[2]
    title = f"{name} (this image)" if is_own else name
    return (
        f"{title}\n{recipe.model}, {entry.planes_done} of "
        f"{count_things(recipe.n_planes, 'plane')}, "
        f"{describe_bytes(entry.nbytes)}, {_ago(entry.last_used)}"
    )


def _describe_fully(entry: EntrySummary) -> str:
    recipe = entry.recipe
    if recipe is None:
        return f"entry {entry.digest}, damaged or of a newer version"
    tiles = "whole planes" if len(recipe.tiles) == 1 else f"{len(recipe.tiles)} tiles"
    height, width = recipe.plane_size
    return (
        f"{recipe.image}\n{entry.planes_done} of "
        f"{count_things(recipe.n_planes, 'plane')} of "
        f"{height} x {width} {recipe.dtype}, {tiles}\n"
        f"model {recipe.model}, {recipe.precision}, stored as {recipe.storage}\n"
        f"{describe_bytes(entry.nbytes)}, used {_ago(entry.last_used)}"
    )


def _describe_health(entry: EntryReport) -> str:
    parts = [f"{count_things(entry.sound, 'plane')} sound"]
    if entry.missing:
        parts.append(f"{len(entry.missing)} not encoded yet")
    if entry.damaged:
        parts.append(f"{len(entry.damaged)} damaged")
    return ", ".join([*parts, *entry.problems]) + "."


def _sum_up(listing: _Listing) -> str:
    if not listing.entries:
        return EMPTY
    n = len(listing.entries)
    nbytes = sum(entry.nbytes for entry in listing.entries)
    free = "" if listing.free is None else f"; {describe_bytes(listing.free)} free"
    return f"{count_things(n, 'stack')}, {describe_bytes(nbytes)} on disk{free}"


def _ago(moment: float | None) -> str:
    if moment is None:
        return "never used"
    seconds = max(0.0, time.time() - moment)
    if seconds < 120:
        return "now"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min ago"
    days = seconds / 86400
    return f"{seconds / 3600:.0f} h ago" if days < 2 else f"{days:.0f} days ago"
