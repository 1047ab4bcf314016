"""How many pixels each pair of a found and a true label shares."""

from __future__ import annotations

from dataclasses import dataclass

import fastremap
import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidLabelsError

__all__ = ["Contingency", "contingency"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Contingency:
    """Pixels of all labels, and of the pairs that share any.

    Attributes
    ----------
    found_ids, true_ids : (F,), (T,) int64
        All labels, sorted, 0 included where it is there.
    found_areas, true_areas : (F,), (T,) int64
        Pixels of each.
    pairs : (P, 2) int64
        Positions in `found_ids` and in `true_ids` of labels that share pixels.
    shared : (P,) int64
        How many they share.
    """

    found_ids: Int64
    true_ids: Int64
    found_areas: Int64
    true_areas: Int64
    pairs: Int64
    shared: Int64

    def overlap(self, found_id: int, true_id: int) -> int:
        """Return how many pixels two labels share."""
        at_found = self.found_ids[self.pairs[:, 0]] == found_id
        at_true = self.true_ids[self.pairs[:, 1]] == true_id
        return int(self.shared[at_found & at_true].sum())


def contingency(
    found: npt.NDArray[np.integer], true: npt.NDArray[np.integer]
) -> Contingency:
    """Count the pixels that labels share, in one pass over the image.

    Parameters
    ----------
    found, true : integer or bool label images of one shape, 2D or 3D

    Raises
    ------
    InvalidLabelsError
        If the shapes differ, or they are no labels.
    """
    if found.shape != true.shape:
        raise InvalidLabelsError(
            f"labels of one image have one shape, got {found.shape} and {true.shape}"
        )
    found_ids, found_dense = _dense(found)
    true_ids, true_dense = _dense(true)
    key = true_dense * len(found_ids) + found_dense
    keys, shared = fastremap.unique(key, return_counts=True)
    rows, columns = np.divmod(keys.astype(np.int64), max(1, len(found_ids)))
    counts = shared.astype(np.int64)
    return Contingency(
        found_ids,
        true_ids,
        np.bincount(columns, counts, len(found_ids)).astype(np.int64),
        np.bincount(rows, counts, len(true_ids)).astype(np.int64),
        np.stack([columns, rows], axis=1),
        counts,
    )


def _dense(labels: npt.NDArray[np.integer]) -> tuple[Int64, Int64]:
    """Return the ids, sorted, and the position of each pixel's id among them."""
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if labels.dtype.kind not in "iu":
        raise InvalidLabelsError(f"labels are integers, not {labels.dtype}")
    flat = np.ascontiguousarray(labels).ravel()
    ids, where = fastremap.unique(flat, return_inverse=True)
    return ids.astype(np.int64), where.astype(np.int64)
