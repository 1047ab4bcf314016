"""What every promptable model offers to the rest of the core."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from napari_samseg.core.types import FloatArray, PlaneEmbedding, PlanePrompts, Progress

if TYPE_CHECKING:
    import torch

__all__ = ["DecodedMasks", "PromptableModel", "precision_of"]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedMasks:
    """What a decoder answers for N objects with M masks each.

    Attributes
    ----------
    logits : (N, M, h, w) float32
        Mask logits at the decoder's resolution; a mask is where they exceed 0.
    iou_predictions : (N, M) float32
    """

    logits: FloatArray
    iou_predictions: FloatArray


class PromptableModel(Protocol):
    """A model that encodes a plane once and decodes prompts against it many times.

    The model alone knows about SAM's conventions: it resizes, normalises with
    its pixel mean and standard deviation and pads; it turns points and boxes
    in yx into SAM's scaled xy.
    """

    @property
    def name(self) -> str:
        """Name in the zoo, or the file name of a user's checkpoint."""

    @property
    def family(self) -> str:
        """Key in `MODEL_FAMILIES`."""

    @property
    def input_size(self) -> int:
        """Side of the square the encoder sees, in pixels."""

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of ``image_embed``."""

    @property
    def low_res_size(self) -> int:
        """Side of the decoder's square logits, in pixels."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the encoder's arithmetic."""

    @property
    def plane_threads(self) -> int:
        """Threads of a processor that encoding one plane makes good use of."""

    @property
    def encoder_digest(self) -> str:
        """Hash of the encoder's tensors, family and input size, never the decoder's."""

    def on_cpu(self) -> PromptableModel:
        """Return this model on the CPU in float32: itself if it is there already.

        The same object each time, so that falling back twice copies once.
        """

    def encode(self, plane: FloatArray) -> PlaneEmbedding:
        """Encode one plane, (Y, X, 3) float32 in 0..255."""

    def encode_steps(
        self, plane: FloatArray
    ) -> Generator[Progress, None, PlaneEmbedding]:
        """Encode as `encode` does, yielding between blocks so that others go first."""

    def encode_batch_steps(
        self, planes: Sequence[FloatArray]
    ) -> Generator[Progress, None, list[PlaneEmbedding]]:
        """Encode several planes at once, yielding as `encode_steps` does.

        Parameters
        ----------
        planes : sequence of (Y, X, 3) float32 in 0..255
            Their sizes may differ: each is resized and padded to the model's square.
            `core.models.batching` chooses how many there should be.
        """

    def decode(
        self, embedding: PlaneEmbedding, prompts: PlanePrompts, *, multimask: bool
    ) -> DecodedMasks:
        """Decode objects that all have the same kinds of prompt.

        Parameters
        ----------
        embedding : PlaneEmbedding
            Made by an encoder with this model's `encoder_digest`.
        prompts : PlanePrompts
            N objects with equal numbers of points and equally with or without
            a box and a mask (`core.predict` groups them so).
        multimask : bool
            Three masks per object for ambiguous prompts (M = 3), or one (M = 1).
        """


def precision_of(model: PromptableModel) -> str:
    """Return the name of a model's precision, as it stands in keys of embeddings."""
    return str(model.dtype).removeprefix("torch.")
