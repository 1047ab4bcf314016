"""Losses on the form of a mask: its parts, its holes, its centre line.

Persistent homology counts them without a threshold. As the probability of a mask is
let rise from 0 to 1, background appears first: components of background (H0) and
loops of it (H1) are born and filled in again. A loop of background goes around an
object that lies in it, so that

- H1 penalises objects that should not be there, and one that is split in two; an object
  that touches the border has no loop around it and is not seen;
- H0 penalises holes, each of which is a component of background.

Every birth and death is the value of one pixel, through which the gradient flows. The
pairs are found by the cubical complex of GUDHI (Maria, Dlotko et al.; that module is
under the MIT licence, as is all of GUDHI that is used here).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from napari_samseg.core.optional import import_optional

__all__ = [
    "DIAGRAM_SIDE",
    "cldice_loss",
    "load_cubical_complex",
    "persistence_pairs",
    "topology_loss",
    "wasserstein_distance",
]

# Masks are reduced to a square of this side: noise costs time, and means nothing.
DIAGRAM_SIDE = 50
# Erosions of the skeleton; objects of up to six pixels across are thinned to a line.
SKELETON_STEPS = 3


def load_cubical_complex() -> Any:
    """Import GUDHI's class of cubical complexes, or say how to get it."""
    gudhi = import_optional(
        "gudhi.cubical_complex",
        "napari-samseg[train]",
        "the topological loss counts holes with GUDHI",
        "choose another loss",
    )
    return gudhi.CubicalComplex


def topology_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    dimensions: Sequence[int] = (1,),
    side: int = DIAGRAM_SIDE,
    q: float = 2.0,
) -> torch.Tensor:
    """Wasserstein distance of the persistence diagrams of a mask and its target.

    The term that the OCT project adds, times 0.1, to Dice and cross-entropy: both
    masks, as probabilities, are reduced bilinearly to 50 x 50, their sublevel cubical
    complexes have diagrams, and those are compared.

    Parameters
    ----------
    logits : (..., h, w) float tensor
        Of whole masks.
    target : (..., h, w) float tensor
        In 0..1, of a shape that broadcasts with `logits`.
    dimensions : ints
        1 for components of the object, 0 for its holes; the distances of several are
        added.
    side : int
        Of the square that both are reduced to.
    q : float
        Order of the distance.

    Returns
    -------
    (...,) float tensor
        On the device of `logits`; diagrams are found on the processor.

    Raises
    ------
    MissingDependencyError
        If GUDHI is not installed.
    """
    probability = _reduced(logits.sigmoid(), side)
    truth = _reduced(target.detach().to(logits), side)
    # of numpy: that of torch imports sympy, which takes seconds
    leading = np.broadcast_shapes(logits.shape[:-2], target.shape[:-2])
    found = probability.expand(*leading, side, side).reshape(-1, side, side)
    true = truth.expand(*leading, side, side).reshape(-1, side, side)
    distances = [
        _diagram_distance(mask, true_mask, dimensions, q)
        for mask, true_mask in zip(found, true, strict=True)
    ]
    if not distances:
        return logits.sum((-2, -1)).expand(leading)
    return torch.stack(distances).view(leading)


def _reduced(masks: torch.Tensor, side: int) -> torch.Tensor:
    """Resize (..., h, w) to (..., side, side)."""
    planes = masks.reshape(-1, 1, *masks.shape[-2:])
    small = functional.interpolate(
        planes, (side, side), mode="bilinear", align_corners=False
    )
    return small.view(*masks.shape[:-2], side, side)


def _diagram_distance(
    found: torch.Tensor, true: torch.Tensor, dimensions: Sequence[int], q: float
) -> torch.Tensor:
    pairs_found, pairs_true = persistence_pairs(found), persistence_pairs(true)
    values_found, values_true = found.flatten(), true.flatten()
    # a sum that is 0 keeps the graph where there is nothing to compare
    total = found.sum() * 0
    for dimension in dimensions:
        total = total + wasserstein_distance(
            values_found[pairs_found[dimension]], values_true[pairs_true[dimension]], q
        )
    return total


def persistence_pairs(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the pixels at which components and loops are born and die.

    Parameters
    ----------
    values : (h, w) float tensor
        Pixels are the squares of a complex that is filled from low to high.

    Returns
    -------
    components, loops : (n, 2) int64 tensor
        Positions in ``values.flatten()``, birth and death. The component that never
        dies is left out.

    Raises
    ------
    MissingDependencyError
        If GUDHI is not installed.
    """
    grid = values.detach().cpu().numpy().astype(np.float64)
    complex_ = load_cubical_complex()(top_dimensional_cells=grid)
    complex_.compute_persistence()
    regular, _ = complex_.cofaces_of_persistence_pairs()
    found = [_as_positions(regular, d, grid.shape) for d in (0, 1)]
    return found[0].to(values.device), found[1].to(values.device)


def _as_positions(
    pairs: Sequence[npt.NDArray[Any]], dimension: int, shape: tuple[int, ...]
) -> torch.Tensor:
    if dimension >= len(pairs):
        return torch.zeros((0, 2), dtype=torch.int64)
    cells = np.asarray(pairs[dimension], np.int64).reshape(-1, 2)
    # GUDHI counts its cells with the first axis fastest
    rows, columns = np.unravel_index(cells, shape, order="F")
    return torch.from_numpy(np.ravel_multi_index((rows, columns), shape))


def wasserstein_distance(
    found: torch.Tensor, true: torch.Tensor, q: float = 2.0
) -> torch.Tensor:
    """Return the q-Wasserstein distance of two persistence diagrams.

    Points are moved onto each other or onto the diagonal at the least sum of
    distances, which are the larger of the two differences (L-infinity), to the power
    of q; the result is the q-th root of that sum.

    Parameters
    ----------
    found : (n, 2) float tensor
        Births and deaths; gets the gradient.
    true : (m, 2) float tensor
    q : float

    Returns
    -------
    () float tensor
    """
    to_diagonal = (found[:, 1] - found[:, 0]).abs() / 2
    true_to_diagonal = (true[:, 1] - true[:, 0]).abs() / 2
    between = (found[:, None] - true[None]).abs().amax(-1)
    # What a match saves over sending both to the diagonal. A match that saves nothing
    # is none, so that the matrix need not hold the diagonal.
    saved = (between**q - to_diagonal[:, None] ** q - true_to_diagonal**q).detach()
    costs = saved.clamp(max=0).cpu().numpy()
    rows, columns = linear_sum_assignment(costs)
    helps = costs[rows, columns] < 0
    rows, columns = rows[helps], columns[helps]
    lonely = np.delete(np.arange(len(found)), rows)
    lonely_true = np.delete(np.arange(len(true)), columns)
    moves = torch.cat(
        [between[rows, columns], to_diagonal[lonely], true_to_diagonal[lonely_true]]
    )
    # unlike a root of a sum, the norm has a gradient of 0 where nothing moves
    distance: torch.Tensor = torch.linalg.vector_norm(moves, ord=q)
    return distance


def cldice_loss(
    logits: torch.Tensor, target: torch.Tensor, *, steps: int = SKELETON_STEPS
) -> torch.Tensor:
    """One minus the centre-line Dice: gaps in thin objects cost as much as ends.

    Shit et al. 2021, clDice, arXiv:2003.07311, with soft skeletons: the share of the
    found skeleton that lies in the target, and of the target's in what was found, as
    their harmonic mean. Smoothed by one pixel.

    Parameters
    ----------
    logits : (..., h, w) float tensor
        Of whole masks.
    target : (..., h, w) float tensor
        In 0..1, of a shape that broadcasts with `logits`.
    steps : int
        Erosions; at least half the width of the objects, in pixels.

    Returns
    -------
    (...,) float tensor in 0..1
    """
    grid = (-2, -1)
    probability, target = logits.sigmoid(), target.to(logits)
    found_line, true_line = _skeleton(probability, steps), _skeleton(target, steps)
    precise = ((found_line * target).sum(grid) + 1) / (found_line.sum(grid) + 1)
    complete = ((true_line * probability).sum(grid) + 1) / (true_line.sum(grid) + 1)
    return 1 - 2 * precise * complete / (precise + complete)


def _skeleton(masks: torch.Tensor, steps: int) -> torch.Tensor:
    """Return soft skeletons of masks (..., h, w) in 0..1."""
    shape = masks.shape
    masks = masks.reshape(-1, 1, *shape[-2:])
    skeleton = functional.relu(masks - _opened(masks))
    for _ in range(steps):
        masks = _eroded(masks)
        edge = functional.relu(masks - _opened(masks))
        skeleton = skeleton + functional.relu(edge - skeleton * edge)
    return skeleton.view(shape)


def _eroded(masks: torch.Tensor) -> torch.Tensor:
    """Take the least of each pixel and its four neighbours."""
    tall = -functional.max_pool2d(-masks, (3, 1), 1, (1, 0))
    wide = -functional.max_pool2d(-masks, (1, 3), 1, (0, 1))
    return torch.minimum(tall, wide)


def _opened(masks: torch.Tensor) -> torch.Tensor:
    """Remove what is thinner than three pixels."""
    return functional.max_pool2d(_eroded(masks), 3, 1, 1)
