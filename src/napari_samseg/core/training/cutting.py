"""Decoding in the surroundings of each object: a part of the embedding, not all.

The decoder's time goes with the tokens it looks at, and most of a plane says little
about an object of some tens of pixels. The same weights work on any part, as all
positions are those of the whole. What lies beyond is looked at through one token in
sixteen, each of which counts for those around it: without them the attention of the
prompts would all fall on the surroundings, and masks learned so come out too large on
whole planes. See `napari_samseg.core.settings.TuneSettings.surroundings`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from napari_samseg.core.training.targets import ObjectTargets

__all__ = ["TokenWindows", "sparsely", "surround"]

# At least so many tokens along each side, and so many times the object's length.
MIN_TOKENS, MIN_LENGTHS = 16, 2.0
# Beyond the window, one token in so many along each axis is looked at.
COARSE = 4
# Windows are a multiple of this, so that few sizes occur.
STEP = 8


@dataclass(frozen=True, slots=True, eq=False)
class TokenWindows:
    """Parts of one size of an embedding's (h, w) tokens, one for each of N objects.

    Attributes
    ----------
    origins_yx : (N, 2) int64 tensor
        First token of each.
    side : int
        Tokens along each side.
    tokens : int
        Tokens of the whole, along each side.
    """

    origins_yx: torch.Tensor
    side: int
    tokens: int

    def cut(self, whole: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """Cut maps (1 or N, C, h, w) of `scale` cells for a token into (N, C, y, x)."""
        n, size = len(self.origins_yx), self.side * scale
        steps = torch.arange(size, device=whole.device)
        rows = (self.origins_yx[:, :1] * scale + steps)[:, None, :, None]
        columns = (self.origins_yx[:, 1:] * scale + steps)[:, None, None, :]
        which = torch.arange(n, device=whole.device)[:, None, None, None]
        channels = torch.arange(whole.shape[1], device=whole.device)[
            None, :, None, None
        ]
        which = which if len(whole) == n else torch.zeros_like(which)
        return whole[which, channels, rows, columns]

    def log_counts(self) -> torch.Tensor:
        """Say for how many tokens each one of the coarse grid stands, (N, F).

        Logarithms; -inf for those of the grid that lie in the window.
        """
        at = torch.arange(self.tokens, device=self.origins_yx.device)
        at = at[COARSE // 2 :: COARSE]
        near = (at >= self.origins_yx[..., None]) & (
            at < self.origins_yx[..., None] + self.side
        )
        inside = (near[:, 0, :, None] & near[:, 1, None, :]).flatten(1)
        beyond = self.tokens**2 - self.side**2
        counts = beyond / (~inside).sum(1, keepdim=True).clamp(min=1)
        return torch.where(inside, -torch.inf, counts.log())

    def move(self, targets: ObjectTargets) -> ObjectTargets:
        """Express the windows of targets as fractions of these windows."""
        origins = torch.flip(self.origins_yx, (1,))
        windows = (
            targets.windows_xyxy * self.tokens - origins.repeat(1, 2)
        ) / self.side
        extents = targets.extents_xy
        if extents is not None:
            extents = (extents * self.tokens - origins) / self.side
        return dataclasses.replace(
            targets, windows_xyxy=windows, extents_xy=extents, whole=None
        )

    def points_to_whole(self, points: torch.Tensor) -> torch.Tensor:
        """Turn points (N, 2) in xy, as fractions, into those of the whole."""
        origins = torch.flip(self.origins_yx, (1,))
        return (points * self.side + origins) / self.tokens


def sparsely(maps: torch.Tensor, scale: int = 1) -> torch.Tensor:
    """Take the coarse grid of maps (N, C, h, w) of `scale` cells for a token."""
    grid = slice(COARSE // 2, None, COARSE)
    rows = maps.unflatten(2, (-1, scale))[:, :, grid].flatten(2, 3)
    found: torch.Tensor = rows.unflatten(3, (-1, scale))[:, :, :, grid].flatten(3)
    return found


def surround(targets: ObjectTargets, tokens: int) -> TokenWindows | None:
    """Return windows around objects, or None where the largest needs the whole.

    Parameters
    ----------
    targets : ObjectTargets
    tokens : int
        Of the embedding, along each side.
    """
    windows = targets.windows_xyxy * tokens
    lengths = (windows[:, 2:] - windows[:, :2]).amax()
    # the windows of targets have a margin already
    wanted = max(MIN_TOKENS, float(lengths) * MIN_LENGTHS / 1.7)
    side = int(-(-wanted // STEP) * STEP)
    if side >= tokens:
        return None
    middles = (windows[:, [1, 0]] + windows[:, [3, 2]]) / 2
    origins = (middles - side / 2).round().long().clamp(0, tokens - side)
    return TokenWindows(origins, side, tokens)
