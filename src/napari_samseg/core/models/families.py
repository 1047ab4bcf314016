"""The families of models, and loading one from the zoo or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_samseg.core.errors import (
    CheckpointError,
    MissingFileError,
    ModelMemoryError,
    SettingsError,
)
from napari_samseg.core.memory import is_memory_error, warn_fallback
from napari_samseg.core.models import weights
from napari_samseg.core.models.checkpoint import (
    Checkpoint,
    load_tensors,
    read_checkpoint,
)
from napari_samseg.core.models.device import choose_device, choose_dtype
from napari_samseg.core.models.mobile_sam import build_mobile_sam, is_mobile_sam
from napari_samseg.core.models.sam import (
    PromptPrior,
    SamModel,
    build_sam,
    is_sam,
    resize_positions,
)
from napari_samseg.core.models.tiny import (
    build_tiny,
    is_tiny,
    prompt_prior,
    tiny_config,
    tiny_metadata,
)
from napari_samseg.core.models.zoo import ZOO
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import Progress

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["MODEL_FAMILIES", "ModelFamily", "load_model", "load_model_steps"]


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """How to tell, build and use the models of one architecture.

    Attributes
    ----------
    description : str
        One line for a list.
    matches : callable
        Tells from tensors by name whether they are of this family.
    build : callable
        Builds the module a checkpoint fits, without caring for its weights.
    prior : PromptPrior or None
        Mask prompt of this family where the person gave none.
    resize : callable or None
        Changes the input size of a module in place, where the family allows that.
    metadata : callable or None
        What a checkpoint of a module says beside its tensors, where they do not
        tell everything.
    """

    description: str
    matches: Callable[[Mapping[str, torch.Tensor]], bool]
    build: Callable[[Checkpoint], Sam]
    prior: PromptPrior | None = None
    resize: Callable[[Sam, int], None] | None = None
    metadata: Callable[[Sam], dict[str, str]] | None = None


MODEL_FAMILIES: dict[str, ModelFamily] = {
    "sam": ModelFamily(
        "Segment Anything with ViT-B, ViT-L or ViT-H (Kirillov et al. 2023)",
        matches=is_sam,
        build=lambda checkpoint: build_sam(checkpoint.tensors),
        resize=resize_positions,
    ),
    "mobile_sam": ModelFamily(
        "MobileSAM: Segment Anything with TinyViT (Zhang et al. 2023)",
        matches=is_mobile_sam,
        build=lambda checkpoint: build_mobile_sam(),
        resize=resize_positions,
    ),
    "tiny": ModelFamily(
        "The embedded family: small convolutional encoder, narrow SAM decoder",
        matches=is_tiny,
        build=lambda checkpoint: build_tiny(tiny_config(*checkpoint)),
        prior=prompt_prior,
        metadata=tiny_metadata,
    ),
}


def load_model(
    name_or_path: str | Path = "default",
    *,
    device: str = "auto",
    precision: str = "fast",
    input_size: int | None = None,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SamModel:
    """Load a model by its name in the zoo or from a checkpoint.

    Parameters
    ----------
    name_or_path : str or Path
        ``"default"`` is the embedded model; other names are those of
        `napari_samseg.core.models.ZOO`, downloaded if need be; anything else is the
        path of a ``.pth``, ``.pt`` or ``.safetensors`` file, whose family is
        detected from its tensors.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision : str
        Of the encoder: ``"fast"``, ``"exact"``, ``"bfloat16"`` or ``"float16"``.
    input_size : int, optional
        Side of the square the encoder sees, if not the one it was trained for: the
        positions of SAM are interpolated.
    folder : Path, optional
        Where downloaded models lie, if not in `models_folder`.
    progress : callable, optional
        Called with each `Progress`.

    Raises
    ------
    UnknownNameError, MissingFileError
        If there is no such model or file.
    CheckpointError
        If the file is no checkpoint of a known family, or not safe to read.
    DownloadError
        If the model cannot be downloaded.
    DeviceError, SettingsError
        If the device, the precision or the input size cannot be had.
    ModelMemoryError
        If the model does not fit into memory. One that does not fit onto a GPU
        computes on the CPU, with a `MemoryFallbackWarning`.
    """
    steps = load_model_steps(
        name_or_path,
        device=device,
        precision=precision,
        input_size=input_size,
        folder=folder,
    )
    return run_steps(steps, progress)


def load_model_steps(
    name_or_path: str | Path = "default",
    *,
    device: str = "auto",
    precision: str = "fast",
    input_size: int | None = None,
    folder: Path | None = None,
) -> Generator[Progress, None, SamModel]:
    """Load as `load_model` does, yielding `Progress`, so that it can be cancelled."""
    chosen_device = choose_device(device)
    dtype = choose_dtype(precision, chosen_device)
    name, path = yield from _find_checkpoint(name_or_path, folder)
    yield Progress(f"loading {name}")
    try:
        key, sam = _read_sam(name, path, input_size)
        return _model_on(chosen_device, sam, name, key, dtype)
    except (CheckpointError, MissingFileError) as error:
        if name != "default":
            raise
        raise CheckpointError(
            f"the model that comes with the plugin is damaged ({error}): choose "
            "another one, or repair it with: pip install --force-reinstall --no-deps "
            "napari-samseg"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise ModelMemoryError(
            f"there is not enough memory to load model {name}: close other programs or "
            "choose a smaller model"
        ) from error


def _read_sam(name: str, path: Path, input_size: int | None) -> tuple[str, Sam]:
    """Return the family and the module, on the CPU, of a checkpoint."""
    checkpoint = read_checkpoint(path)
    key = detect_family(checkpoint.tensors, name)
    family = MODEL_FAMILIES[key]
    # On the meta device nothing is drawn at random and no memory is taken.
    with torch.device("meta"):
        sam = family.build(checkpoint)
    load_tensors(sam, checkpoint.tensors, name)
    if input_size is not None and input_size != sam.image_encoder.img_size:
        if family.resize is None:
            raise SettingsError(
                f"models of family {key} keep the input size they were trained for, "
                f"here {sam.image_encoder.img_size}"
            )
        family.resize(sam, input_size)
    return key, sam


def _model_on(
    device: torch.device, sam: Sam, name: str, key: str, dtype: torch.dtype
) -> SamModel:
    """Put a module on a device, or on the CPU where the device is too full."""
    prior = MODEL_FAMILIES[key].prior
    try:
        return SamModel(
            sam, name=name, family=key, device=device, dtype=dtype, prior=prior
        )
    except RuntimeError as error:
        if device.type == "cpu" or not is_memory_error(error):
            raise
    warn_fallback(device, f"{name} computes on the CPU")
    return SamModel(sam, name=name, family=key, prior=prior)


def detect_family(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    """Return the key in `MODEL_FAMILIES` of a checkpoint that messages call `name`.

    Raises
    ------
    CheckpointError
        If it is of no known family.
    """
    for key, family in MODEL_FAMILIES.items():
        if family.matches(tensors):
            return key
    first = ", ".join(list(tensors)[:3])
    raise CheckpointError(
        f"{name} is of no known family ({', '.join(MODEL_FAMILIES)}): its tensors are "
        f"called {first}, ... where image_encoder.* is expected"
    )


def _find_checkpoint(
    name_or_path: str | Path, folder: Path | None
) -> Generator[Progress, None, tuple[str, Path]]:
    """Return the name and the file of a model, downloading it if need be."""
    if name_or_path == "default":
        return "default", weights.embedded_path()
    if isinstance(name_or_path, str) and name_or_path in ZOO:
        path = yield from weights.download(name_or_path, folder)
        return name_or_path, path
    tuned = weights.tuned_models(folder)
    if isinstance(name_or_path, str) and name_or_path in tuned:
        return name_or_path, tuned[name_or_path]
    weights.check_model(name_or_path, folder)
    path = Path(name_or_path).expanduser()
    return path.name, path
