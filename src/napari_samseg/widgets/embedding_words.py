"""What the Embedding panel says of estimates, progress and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_samseg.core.amounts import count_things, describe_bytes, describe_seconds

if TYPE_CHECKING:
    from napari_samseg.core.embed.job import EmbedReport
    from napari_samseg.core.embed.stack import EmbedEstimate
    from napari_samseg.core.types import Progress

__all__ = [
    "describe_estimate",
    "describe_progress",
    "describe_report",
]

# More unreadable planes than this are only counted.
LISTED = 10


def describe_estimate(estimate: EmbedEstimate) -> str:
    """Say what encoding will take, in two lines."""
    if not estimate.missing:
        if estimate.planes == 1:
            return "The plane is in the store."
        return f"All {estimate.planes} planes are in the store."
    planes = f"{estimate.missing} of {count_things(estimate.planes, 'plane')} to encode"
    if estimate.tiles != estimate.missing:
        planes += f" in {count_things(estimate.tiles, 'tile')}"
    if estimate.seconds is not None:
        planes += f": {describe_seconds(estimate.seconds)}"
    free = "" if estimate.free is None else f" ({describe_bytes(estimate.free)} free)"
    return (
        f"{planes}.\nOn disk {describe_bytes(estimate.nbytes)}{free}; memory "
        f"{describe_bytes(estimate.memory)} beside the model."
    )


def describe_progress(progress: Progress) -> str:
    """Say how far a job is, how fast, and how long it will take."""
    text = progress.stage
    if progress.total:
        text += f": {progress.done} of {progress.total}"
    return f"{text}\n{progress.detail}" if progress.detail else text


def describe_report(report: EmbedReport) -> str:
    """Say what a job has done, and which planes it could not read."""
    text = (
        f"{count_things(report.encoded, 'plane')} encoded, "
        f"{report.kept} there before, in "
        f"{describe_seconds(report.seconds)}."
    )
    if report.unreadable:
        text += f"\n{len(report.unreadable)} skipped, as they cannot be read:"
        for plane, reason in report.unreadable[:LISTED]:
            text += f"\n{', '.join(str(i) for i in plane)}: {reason}"
        if len(report.unreadable) > LISTED:
            text += "\n..."
    return text
