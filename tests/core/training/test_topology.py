from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from napari_samseg.core.errors import MissingDependencyError
from napari_samseg.core.training.losses import WHOLE_MASK_LOSSES, mask_loss
from napari_samseg.core.training.topology import (
    cldice_loss,
    persistence_pairs,
    topology_loss,
    wasserstein_distance,
)


def disc(y: float, x: float, radius: float, side: int = 64) -> torch.Tensor:
    rows, columns = torch.meshgrid(
        torch.arange(side), torch.arange(side), indexing="ij"
    )
    return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).float()


def logits_of(mask: torch.Tensor, size: float = 3.0) -> torch.Tensor:
    return (2 * size) * mask - size


def descend(
    logits: torch.Tensor, target: torch.Tensor, where: torch.Tensor, **options
) -> torch.Tensor:
    """Follow the gradient of the topological loss alone for some steps.

    What is added to the logits is smooth, as what a decoder makes is: the gradient has
    only single pixels, births and deaths, to act on.
    """
    added = torch.zeros(1, 1, 8, 8, requires_grad=True)
    optimizer = torch.optim.Adam([added], lr=0.3)

    def changed() -> torch.Tensor:
        smooth = torch.nn.functional.interpolate(added, logits.shape, mode="bilinear")
        return logits + smooth[0, 0] * where

    for _ in range(15):
        optimizer.zero_grad()
        topology_loss(changed(), target, **options).backward()
        optimizer.step()
    return changed().detach()


def intervals(values: torch.Tensor, dimension: int) -> list[tuple[float, float]]:
    pairs = persistence_pairs(values)[dimension]
    return [(b, d) for b, d in values.flatten()[pairs].tolist() if b != d]


def test_pairs_of_a_drawing_by_hand() -> None:
    values = torch.tensor(
        [
            [0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
            [0.1, 0.9, 0.1, 0.1, 0.8, 0.1],
            [0.1, 0.1, 0.1, 0.3, 0.8, 0.1],
            [0.1, 0.1, 0.1, 0.1, 0.1, 0.2],
            [0.4, 0.4, 0.4, 0.4, 0.4, 0.4],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    # what lies above the wall is younger than the floor, and joins it at the wall's 0.4
    assert intervals(values, 0) == [pytest.approx((0.1, 0.4))]
    # both peaks are surrounded at once: corners connect as well
    loops = sorted(intervals(values, 1))
    assert loops == [pytest.approx((0.1, 0.8)), pytest.approx((0.1, 0.9))]


@pytest.mark.parametrize("level", [0.3, 0.5, 0.6])
def test_counts_what_scipy_counts_at_any_threshold(level) -> None:
    noise = np.random.default_rng(3).random((60, 51))
    smooth = ndimage.gaussian_filter(noise, 1.2)
    values = torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth))
    low = values.numpy() <= level
    alive = sum(b <= level < d for b, d in intervals(values, 0)) + 1
    # squares that share a corner touch
    assert alive == ndimage.label(low, np.ones((3, 3)))[1]
    # loops of what is low go around parts of the rest that do not reach the border
    n_high = ndimage.label(np.pad(~low, 1, constant_values=True))[1] - 1
    loops = sum(b <= level < d for b, d in intervals(values, 1))
    assert loops == n_high
    assert alive + loops > 8


def test_distance_by_hand() -> None:
    found = torch.tensor([[0.1, 0.9], [0.4, 0.5]], requires_grad=True)
    true = torch.tensor([[0.0, 1.0]])
    distance = wasserstein_distance(found, true)
    assert distance.item() == pytest.approx((0.1**2 + 0.05**2) ** 0.5)
    distance.backward()
    assert found.grad is not None
    # of the point that is matched, the birth moves or the death, which are as far;
    # the other one goes to the diagonal: to be born later, and die sooner
    assert found.grad[1, 0] < 0 < found.grad[1, 1]
    assert wasserstein_distance(true, true).item() == 0


@pytest.mark.parametrize("q", [1.0, 2.0])
def test_matching_is_the_best_with_the_diagonal(q) -> None:
    rng = np.random.default_rng(0)
    for n, m in [(0, 3), (4, 0), (5, 3), (3, 6)]:
        births = [rng.random(k) for k in (n, m)]
        a, b = (np.stack([x, x + rng.random(len(x)) * 0.5], 1) for x in births)
        # the textbook's square matrix: each point may also go to the diagonal
        costs = np.zeros((n + m, n + m))
        costs[:n, :m] = np.abs(a[:, None] - b[None]).max(-1) ** q
        costs[:n, m:] = ((a[:, 1] - a[:, 0]) / 2)[:, None] ** q
        costs[n:, :m] = ((b[:, 1] - b[:, 0]) / 2) ** q
        best = costs[linear_sum_assignment(costs)].sum() ** (1 / q)
        ours = wasserstein_distance(torch.from_numpy(a), torch.from_numpy(b), q)
        assert ours.item() == pytest.approx(best)


def count(mask: torch.Tensor) -> int:
    return int(ndimage.label(mask.numpy())[1])


def test_first_homology_removes_an_object_too_many() -> None:
    target = disc(20, 20, 10)
    # a peak, as a plateau has no one pixel at which it dies
    peak = torch.exp(-((torch.arange(64) - 45.0) ** 2) / 40)
    logits = torch.maximum(logits_of(target, 1.0), 2 * peak[:, None] * peak - 1)
    assert count(logits > 0) == 2
    better = descend(logits, target, disc(45, 45, 12))
    assert count(better > 0) == 1
    before, after = (topology_loss(x, target).item() for x in (logits, better))
    assert after < 0.9 * before


def test_first_homology_mends_a_split() -> None:
    target = disc(32, 32, 18)
    logits = logits_of(target, 1.0)
    logits[:, 31:33] = -0.5
    assert count(logits > 0) == 2
    assert count(descend(logits, target, target) > 0) == 1


def test_zeroth_homology_fills_a_hole_which_the_first_does_not_see() -> None:
    target = disc(32, 32, 18)
    logits = logits_of(target, 1.0)
    logits[disc(32, 32, 2.3) > 0] = -0.5
    holes = count(logits <= 0) - 1
    assert holes == 1
    better = descend(logits, target, target, dimensions=(0,))
    assert count(better <= 0) == 1
    before, after = (
        topology_loss(x, target, dimensions=(0,)).item() for x in (logits, better)
    )
    assert after < before
    clean, holed = (
        topology_loss(x, target).item() for x in (logits_of(target, 1.0), logits)
    )
    assert holed == pytest.approx(clean, abs=1e-3)
    both = topology_loss(logits, target, dimensions=(0, 1)).item()
    assert both == pytest.approx(before + holed, rel=1e-5)


def test_right_masks_cost_nothing_and_have_a_gradient() -> None:
    target = disc(32, 32, 18)
    logits = logits_of(target, 60.0).requires_grad_()
    loss = topology_loss(logits, target, dimensions=(0, 1))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_library_is_named_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gudhi.cubical_complex", None)
    with pytest.raises(MissingDependencyError, match=r"napari-samseg\[train\]"):
        topology_loss(torch.zeros(8, 8), torch.zeros(8, 8))


@pytest.mark.slow(reason="MONAI takes half a minute to import")
def test_centre_line_agrees_with_monai() -> None:
    losses = pytest.importorskip("monai.losses", reason="MONAI compares the losses")
    theirs = losses.SoftclDiceLoss(iter_=3, smooth_nr=1.0, smooth_dr=1.0)
    logits = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    target = disc(20, 20, 12, 40) - disc(20, 20, 9, 40)
    ours = cldice_loss(3 * logits, target)
    expected = theirs((3 * logits).sigmoid(), target[None, None])
    assert ours.item() == pytest.approx(expected.item(), rel=1e-4)


def test_centre_line_sees_a_gap_that_dice_hardly_does() -> None:
    line = torch.zeros(40, 40)
    line[19:22, 4:36] = 1
    short, gap = line.clone(), line.clone()
    short[:, 30:] = 0
    gap[:, 18:20] = 0
    costs = {
        name: float(cldice_loss(logits_of(mask, 20.0), line))
        for name, mask in (("right", line), ("short", short), ("gap", gap))
    }
    assert costs["right"] < 0.01 < costs["gap"] < costs["short"]


@pytest.mark.parametrize("name", sorted(WHOLE_MASK_LOSSES))
def test_every_loss_of_whole_masks(name) -> None:
    logits = torch.randn(3, 2, 20, 24, requires_grad=True)
    target = disc(10, 10, 6, 24)[:20].expand(3, 1, -1, -1)
    cost = mask_loss(name)(logits, target)
    assert cost.shape == (3, 2)
    cost.sum().backward()
    assert logits.grad is not None
    assert (logits.grad.flatten(2).abs().sum(-1) > 0).all()
    assert torch.isfinite(logits.grad).all()
    # objects do not mix
    alone = mask_loss(name)(logits[1:2, 1:], target[1:2])
    torch.testing.assert_close(alone[0, 0], cost[1, 1])
