"""Names of BIDS files in their parts, and what is missing in a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "EXTENSIONS",
    "BidsName",
    "Missing",
    "sample_of",
    "split_extension",
    "visible_files",
]

EXTENSIONS = (
    ".ome.tiff",
    ".ome.tif",
    ".ome.btf",
    ".ome.zarr",
    ".tiff",
    ".tif",
    ".png",
)
ENTITY = re.compile(r"[A-Za-z]+-[A-Za-z0-9+]+")


@dataclass(frozen=True, slots=True)
class BidsName:
    """Name of a file, ``sub-1_sample-2_SEM.png``, in its parts.

    Attributes
    ----------
    entities : tuple of (str, str)
        ``(("sub", "1"), ("sample", "2"))``, in their order.
    suffix : str
        ``SEM``.
    extension : str
        ``.png``.
    """

    entities: tuple[tuple[str, str], ...]
    suffix: str
    extension: str

    @classmethod
    def parse(cls, name: str, extensions: Sequence[str] = EXTENSIONS) -> BidsName:
        """Take a name apart.

        Raises
        ------
        ValueError
            If it is no BIDS name with one of the extensions.
        """
        stem, extension = split_extension(name, extensions)
        *entities, suffix = stem.split("_")
        if not extension or not suffix.isalnum():
            raise ValueError(f"{name} is no BIDS name")
        if not all(ENTITY.fullmatch(entity) for entity in entities):
            raise ValueError(f"{name} is no BIDS name")
        pairs = tuple((e.split("-")[0], e.split("-")[1]) for e in entities)
        if len(dict(pairs)) != len(pairs):
            raise ValueError(f"{name} has an entity twice")
        return cls(pairs, suffix, extension)

    def __getitem__(self, key: str) -> str:
        """Return an entity such as ``sub-1``, "" if it is not in the name."""
        value = dict(self.entities).get(key)
        return "" if value is None else f"{key}-{value}"

    @property
    def entity_stem(self) -> str:
        """``sub-1_sample-2``."""
        return "_".join(f"{key}-{value}" for key, value in self.entities)

    @property
    def stem(self) -> str:
        """``sub-1_sample-2_SEM``."""
        return "_".join(filter(None, (self.entity_stem, self.suffix)))


@dataclass(frozen=True, slots=True, order=True)
class Missing:
    """Something that a sample lacks, or that is wrong with it.

    Attributes
    ----------
    sample : str
        ``sub-1 sample-2``; "" for the dataset.
    what : str
        For people.
    """

    sample: str
    what: str

    def __str__(self) -> str:
        return f"{self.sample}: {self.what}" if self.sample else self.what


def split_extension(name: str, extensions: Sequence[str]) -> tuple[str, str]:
    """Return a name without its extension, and the extension, "" if it is another."""
    for extension in extensions:
        if name.lower().endswith(extension):
            return name[: -len(extension)], name[-len(extension) :]
    return name, ""


def sample_of(subject: str, sample: str) -> str:
    """Name a sample for messages, ``sub-1 sample-2``."""
    return " ".join(filter(None, (subject, sample)))


def visible_files(folder: Path) -> list[Path]:
    """Files and folders in a fixed order, without those that systems hide."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
