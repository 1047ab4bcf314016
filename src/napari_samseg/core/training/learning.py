"""Which parts of a model learn whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import nn

__all__ = ["learning_parts"]


def learning_parts(sam: Sam, train: str) -> tuple[nn.Module, ...]:
    """Return the parts of a model whose own weights learn; adapters come on top.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
    train : str
        See `napari_samseg.core.settings.TuneSettings`.
    """
    parts: dict[str, tuple[nn.Module, ...]] = {
        "decoder": (sam.mask_decoder,),
        "decoder+prompts": (sam.mask_decoder, sam.prompt_encoder),
        "lora": (),
        "lora+decoder": (sam.mask_decoder, sam.prompt_encoder),
        "everything": (sam,),
    }
    return parts[train]
