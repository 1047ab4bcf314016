"""Several processes that make one training, as torchrun starts them.

The batches of a step are dealt out, and their gradients summed: that is what a single
process does with accumulation, so that the result is the same up to rounding. The
first process prepares, validates, writes and decides; the others only learn along.

Processes meet: each says something, and hears what all say. One that ends early says
so at the meeting that the others come to next, wherever they are, so that none waits
for what never comes.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from napari_samseg.core.errors import (
    OtherProcessError,
    SamSegError,
    SettingsError,
    TrainingError,
)
from napari_samseg.core.settings import LoopSettings, ModelSettings

__all__ = ["ALONE", "Ranks", "Weighed", "is_follower", "join_ranks"]

T = TypeVar("T")

# Others wait while the first encodes images and validates; where one dies, torchrun
# ends them all.
PATIENCE = timedelta(days=30)
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class _Farewell:
    """What a process says that ends before the training does."""

    why: str


@dataclass(frozen=True, slots=True)
class Weighed:
    """A sum of values times their weights, and of the weights.

    A figure is not there in every batch: it is divided by the weights of those in
    which it is.

    Attributes
    ----------
    total, weight : float
    """

    total: float = 0.0
    weight: float = 0.0

    def __add__(self, other: Weighed) -> Weighed:
        return Weighed(self.total + other.total, self.weight + other.weight)

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return self.total / self.weight


class Ranks:
    """The processes of a training, seen from one of them; alone, it does nothing.

    Parameters
    ----------
    index : int
        Of this process; 0 is the first.
    size : int
        Number of processes.
    words : ProcessGroup, optional
        What they talk through; none where there is one process.
    """

    def __init__(
        self, index: int = 0, size: int = 1, words: dist.ProcessGroup | None = None
    ) -> None:
        self.index, self.size = index, size
        self._words = words
        self._sums: dist.ProcessGroup | None = None
        self._is_over = False

    @property
    def is_first(self) -> bool:
        """Whether this process prepares, validates and writes."""
        return self.index == 0

    def numbers(self, start: int, end: int) -> range:
        """Return which of the batches from `start` to `end` are for this process."""
        return range(start + (self.index - start) % self.size, end, self.size)

    def check(self, settings: LoopSettings) -> None:
        """Raise `SettingsError` unless each process has something to do in a step."""
        if settings.accumulate < self.size:
            raise SettingsError(
                f"{self.size} processes divide the batches of a step, of which there "
                f"{'is' if settings.accumulate == 1 else 'are'} {settings.accumulate}: "
                f"set accumulate of the loop to {self.size} or more, or start fewer "
                "processes"
            )

    def place(self, settings: ModelSettings) -> ModelSettings:
        """Return the settings of a model on the GPU of this process, if there is one.

        Raises
        ------
        SettingsError
            If one GPU is asked for by its number.
        """
        if self.size == 1 or not torch.cuda.is_available():
            return settings
        if settings.device.startswith("cuda:"):
            raise SettingsError(
                f"each process takes a GPU of its own: set device to auto or cuda, not "
                f"{settings.device}"
            )
        if settings.device not in ("auto", "cuda"):
            return settings
        number = int(os.environ.get("LOCAL_RANK", self.index))
        return dataclasses.replace(settings, device=f"cuda:{number}")

    def meet(self, word: T) -> list[T]:
        """Say something that can be pickled; return what each process has said.

        Raises
        ------
        OtherProcessError
            If another process has ended, or is gone.
        """
        if self.size == 1:
            return [word]
        for index, said in enumerate(found := self._gather(word)):
            if isinstance(said, _Farewell):
                raise OtherProcessError(
                    f"process {index} of the training has ended: {said.why}"
                )
        return found

    def check_alike(self, what: object) -> None:
        """Raise `TrainingError` unless all processes say the same."""
        if any(other != what for other in self.meet(what)):
            raise TrainingError(
                "the processes do not train the same: give each of them the same "
                "model, settings and folder"
            )

    def from_first(self, word: T) -> T:
        """Return what the first process says."""
        return self.meet(word)[0]

    def add_up(
        self, figures: Mapping[str, Weighed], parameters: Sequence[nn.Parameter]
    ) -> dict[str, float]:
        """Return means of figures over all processes; sum gradients in their places.

        What has no gradient in any process has none afterwards: the optimizer is to
        leave it as it is.

        Raises
        ------
        OtherProcessError
            As `meet`.
        """
        if self.size == 1:
            return {name: figure.mean for name, figure in figures.items()}
        device = parameters[0].device
        has_nccl = device.type == "cuda" and dist.is_nccl_available()
        # memory may run out here: before the others wait for the sum
        flat = _flatten(parameters).to(device if has_nccl else "cpu")
        # Ctrl+C between the two would leave the others waiting for the second
        with _late_interrupts():
            said = self.meet(figures)
            self._sum(flat, has_nccl=has_nccl)
        _unflatten(flat, parameters)
        sums: dict[str, Weighed] = {}
        for each in said:
            for name, figure in each.items():
                sums[name] = sums.get(name, Weighed()) + figure
        return {name: figure.mean for name, figure in sums.items()}

    def _sum(self, flat: torch.Tensor, *, has_nccl: bool) -> None:
        if self._sums is None:
            self._sums = _new_group("nccl") if has_nccl else self._words
        with self._losing_others():
            dist.all_reduce(flat, group=self._sums)

    def _gather(self, word: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        with _late_interrupts():
            with self._losing_others():
                dist.all_gather_object(found, word, group=self._words)
            self._is_over = any(isinstance(said, _Farewell) for said in found)
        return found

    @contextmanager
    def _losing_others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._is_over = True
            raise OtherProcessError(
                "another process of the training is gone; what it has printed says "
                f"why ({error})"
            ) from error

    def leave(self, error: BaseException) -> None:
        """Tell the others that this process ends, unless it is over for all."""
        if self.size == 1 or self._is_over:
            return
        why = "it was stopped"
        if isinstance(error, SamSegError):
            why = str(error)
        elif isinstance(error, Exception):
            why = f"{type(error).__name__}: {error}"
        with suppress(OtherProcessError):  # gone, too
            self._gather(_Farewell(why))

    def close(self) -> None:
        """Give back what was opened for this training."""
        for group in {self._words, self._sums} - {None}:
            dist.destroy_process_group(group)


# Of a training that is not divided.
ALONE = Ranks()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the other processes that torchrun has started, if it has.

    A process group that a script has made is used; one that is made here stays, for
    the next training of a script. An error in the ``with`` block ends the training in
    all processes.
    """
    if not dist.is_available() or not (dist.is_initialized() or _is_launched()):
        yield ALONE
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
    if dist.get_world_size() == 1:
        yield ALONE
        return
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), _new_group("gloo"))
    try:
        with _following(ranks):
            yield ranks
    except BaseException as error:
        ranks.leave(error)
        raise
    finally:
        ranks.close()


def is_follower() -> bool:
    """Tell whether torchrun has started this as another than the first process."""
    return _is_launched() and os.environ["RANK"] != "0"


def _is_launched() -> bool:
    """Tell whether torchrun, or what names its processes alike, has started this."""
    known = all(name in os.environ for name in LAUNCHED)
    return known and os.environ["WORLD_SIZE"] != "1"


def _new_group(backend: str) -> dist.ProcessGroup:
    group = dist.new_group(backend=backend, timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)  # all processes are in it
    return group


def _flatten(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Return all gradients in one row, and in its end which of them there are."""
    parts = [
        torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters
    ]
    there = torch.tensor([p.grad is not None for p in parameters])
    row = [part.flatten().float() for part in parts]
    return torch.cat([*row, there.float().to(parameters[0].device)])


def _unflatten(flat: torch.Tensor, parameters: Sequence[nn.Parameter]) -> None:
    sizes = [p.numel() for p in parameters]
    *parts, there = flat.split([*sizes, len(parameters)])
    for parameter, part, is_there in zip(
        parameters, parts, there.tolist(), strict=True
    ):
        parameter.grad = part.view_as(parameter).to(parameter) if is_there else None


@contextmanager
def _following(ranks: Ranks) -> Iterator[None]:
    """Leave Ctrl+C to the first process: torchrun hands it to all of them."""
    if ranks.is_first or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _late_interrupts() -> Iterator[None]:
    """Take Ctrl+C at the end of the ``with`` block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: noted.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted.is_set():
            signal.raise_signal(signal.SIGINT)
