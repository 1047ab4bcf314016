"""Running means of the weights that a training changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["AveragedWeights"]


class AveragedWeights:
    """Exponential running means of what learns in a module.

    Parameters
    ----------
    module : torch.nn.Module
        Trained where it stands; parameters with ``requires_grad`` learn.
    decay : float
        Share of the old mean in the new one; 0 keeps the values of the last step.

    Attributes
    ----------
    values : dict of str to tensor
        Means of what learns; of buffers too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.values = {n: t.detach().clone() for n, t in self.learning().items()}

    def learning(self) -> dict[str, torch.Tensor]:
        """Return what training changes: parameters that learn, and buffers."""
        state = self._module.state_dict(keep_vars=True)
        return {
            name: tensor
            for name, tensor in state.items()
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the means; early steps count more, so the start fades.

        Parameters
        ----------
        step : int
            How many updates there were before.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, now in self.learning().items():
            mean = self.values[name]
            if mean.dtype.is_floating_point and self._decay:
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    @torch.no_grad()
    def put(self, values: Mapping[str, torch.Tensor]) -> None:
        """Copy values of all that learns into the module."""
        for name, tensor in self.learning().items():
            tensor.copy_(values[name])

    @contextmanager
    def in_module(self) -> Iterator[nn.Module]:
        """Put the means into the module, until the ``with`` block ends."""
        now = {
            name: tensor.detach().clone() for name, tensor in self.learning().items()
        }
        try:
            self.put(self.values)
            yield self._module
        finally:
            self.put(now)
