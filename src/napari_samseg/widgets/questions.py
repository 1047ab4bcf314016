"""What a commit leaves to a person: labels that it touches, ids that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from napari_samseg.core.errors import LabelOverflowError, SamSegError

if TYPE_CHECKING:
    from napari_samseg.widgets.session import Session

__all__ = ["Questions", "commit_or_ask"]


class Questions(Protocol):
    """Who is asked where a commit leaves a choice: the panel."""

    def ask_overlap(self, touched: tuple[int, ...]) -> str | None:
        """Choose ``keep`` or ``replace`` for labels touched; None to wait."""

    def ask_widen(self, message: str) -> bool:
        """Whether to convert the labels, so that larger ids fit."""


def commit_or_ask(session: Session, questions: Questions | None) -> None:
    """Commit, and report errors; with nobody to ask, other labels are kept."""
    overlap: str | None = session.overlap
    if overlap == "ask":
        touched = session.overlapped()
        overlap = "keep"
        if touched and questions is not None:
            overlap = questions.ask_overlap(touched)
        if overlap is None:
            return
    try:
        session.commit(overlap)
    except LabelOverflowError as error:
        if questions is not None and questions.ask_widen(str(error)):
            session.widen_target()
            commit_or_ask(session, questions)
        else:
            session.report(str(error), is_error=True)
    except SamSegError as error:
        session.report(str(error), is_error=True)
