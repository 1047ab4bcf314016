"""The model that settings name."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from napari_samseg.core.models.weights import check_model
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel

__all__ = ["model_steps"]


def model_steps(
    settings: ModelSettings, folder: Path | None = None
) -> Generator[Progress, None, SamModel]:
    """Load the model of some settings, and torch with it.

    Parameters
    ----------
    settings : ModelSettings
    folder : Path, optional
        Where downloaded models lie.

    Raises
    ------
    SamSegError
        If the model cannot be had.
    """
    check_model(settings.model, folder)
    yield Progress("loading torch")
    from napari_samseg.core.models import load_model_steps

    return (
        yield from load_model_steps(
            settings.model,
            device=settings.device,
            precision=settings.precision,
            input_size=settings.input_size or None,
            folder=folder,
        )
    )
