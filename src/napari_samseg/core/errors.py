"""Errors of napari-samseg: each is a `SamSegError` and the built-in it specialises.

None of them derives from `RuntimeError`: napari drops a `RuntimeError` raised in
a generator worker without telling anyone, so such an error would look like a job
that never ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "CacheError",
    "CheckpointError",
    "DamagedStoreError",
    "DeviceError",
    "DownloadError",
    "InvalidImageError",
    "InvalidLabelsError",
    "InvalidPromptError",
    "LabelOverflowError",
    "LayerError",
    "MissingDependencyError",
    "MissingFileError",
    "ModelMemoryError",
    "NewerStoreError",
    "OtherProcessError",
    "OutputError",
    "SamSegError",
    "SettingsError",
    "ToolError",
    "TrainingError",
    "UnknownNameError",
    "naming_file",
]


class SamSegError(Exception):
    """Base of every error whose message is meant for the person at the keyboard."""


class InvalidImageError(SamSegError, ValueError):
    """The image cannot be read as planes: wrong shape, dtype, axis or index."""


class InvalidLabelsError(SamSegError, ValueError):
    """The labels cannot be used: wrong shape, floats, negative or too large ids."""


class InvalidPromptError(SamSegError, ValueError):
    """A prompt is empty, outside the image, or contradicts another one."""


class SettingsError(SamSegError, ValueError):
    """A setting is outside its bounds or not one of its choices."""


class UnknownNameError(SamSegError, LookupError):
    """A name is not in its registry; the message lists what is."""


class MissingFileError(SamSegError, FileNotFoundError):
    """A file that was asked for is not there."""


class CacheError(SamSegError, OSError):
    """A store of embeddings is something else, newer, out of reach or not writable."""


class DamagedStoreError(CacheError):
    """Something in a store was cut off or changed after it was written."""


class NewerStoreError(CacheError):
    """A store or one of its entries was made by a newer version of the plugin."""


class CheckpointError(SamSegError, ValueError):
    """A checkpoint lacks the tensors its family needs, or is not safe to read."""


class DownloadError(SamSegError, ConnectionError):
    """A download did not complete; the message names the file and where to put it."""


class DeviceError(SamSegError, ValueError):
    """The device that was asked for is not on this machine."""


class ModelMemoryError(SamSegError, MemoryError):
    """Memory ran out even after falling back to the smallest batch."""


class OutputError(SamSegError, OSError):
    """Something cannot be written where it was asked for."""


class ToolError(SamSegError, OSError):
    """Another program that was asked for failed; the message says what it said."""


class TrainingError(SamSegError, ArithmeticError):
    """Training cannot go on: a loss or a gradient is no number."""


class OtherProcessError(TrainingError):
    """Training cannot go on: another process that takes part in it has ended."""


class LayerError(SamSegError, ValueError):
    """A napari layer is gone, of the wrong kind, or cannot be edited."""


class LabelOverflowError(SamSegError, OverflowError):
    """The next object id does not fit the data type of the labels."""


class MissingDependencyError(SamSegError, ImportError):
    """An optional library is missing; the message names the extra that brings it."""


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Say which file labels are of, where what is wrong is found in the array alone."""
    try:
        yield
    except (InvalidLabelsError, LabelOverflowError) as error:
        if path.name in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
