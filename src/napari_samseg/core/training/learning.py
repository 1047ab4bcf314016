"""What of a model learns: copied from the model in use, chosen, made to learn."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.training.lora import add_lora

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import nn

    from napari_samseg.core.settings import TuneSettings
    from napari_samseg.core.training.presets import TuningPlan

__all__ = ["choose_learning", "copy_model", "learning_parts"]


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


def copy_model(model: SamModel, settings: TuneSettings) -> SamModel:
    """Copy what learns; the rest is shared with the model that is in use."""
    memo: dict[int, Any] = {}
    if not settings.needs_pixels:
        encoder = model.sam.image_encoder
        memo[id(encoder)] = encoder
    sam: Sam = copy.deepcopy(model.sam, memo)
    return SamModel(
        sam,
        name=model.name,
        family=model.family,
        device=model.device,
        dtype=model.dtype,
        prior=model.prior,
    )


def choose_learning(sam: Sam, plan: TuningPlan) -> None:
    """Let the parts learn that a plan names, and nothing else.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
        Changed in place; it gets adapters where the plan asks for them.
    plan : TuningPlan

    Raises
    ------
    SettingsError
        If the model has no layers for the adapters, or has adapters already.
    """
    sam.requires_grad_(False)
    for part in learning_parts(sam, plan.tune.train):
        part.requires_grad_(True)
    if plan.tune.train.startswith("lora"):
        add_lora(
            sam, plan.lora, generator=torch.Generator().manual_seed(plan.loop.seed)
        )
