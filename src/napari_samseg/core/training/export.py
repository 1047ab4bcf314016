"""Models as files for other programs: one that is tuned, with its adapters merged."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from napari_samseg.core.errors import CheckpointError, SettingsError
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.models.checkpoint import read_checkpoint
from napari_samseg.core.models.families import MODEL_FAMILIES, load_model_steps
from napari_samseg.core.training.lora import load_lora, merge_lora
from napari_samseg.core.training.result import export_pth, write_tensors
from napari_samseg.core.types import Progress

__all__ = ["EXPORT_SUFFIXES", "export_steps"]

EXPORT_SUFFIXES = (".pth", ".safetensors")


def export_steps(
    model: str,
    out: Path,
    *,
    lora: Path | None = None,
    overwrite: bool = False,
    folder: Path | None = None,
) -> Generator[Progress, None, str]:
    """Write the weights of a model, and return the key of its family.

    A ``.pth`` holds the plain state dict that ``sam_model_registry`` loads strictly and
    micro-sam takes as a checkpoint; families whose shape the tensors do not tell are
    written as ``.safetensors`` only.

    Parameters
    ----------
    model : str
        Name or path, as in `napari_samseg.core.models.load_model`.
    out : Path
    lora : Path, optional
        Adapters to merge into it, such as ``best_lora.safetensors`` of a training.
    overwrite : bool
        Replace a file that is there.
    folder : Path, optional
        Where downloaded models lie.

    Raises
    ------
    SettingsError
        If the suffix is another one, or does not do for the family.
    OutputError
        If the file cannot be written, or is there already.
    SamSegError
        If the model or the adapters cannot be loaded, or do not fit each other.
    """
    if out.suffix not in EXPORT_SUFFIXES:
        raise SettingsError(
            f"models are written as {' or '.join(EXPORT_SUFFIXES)}, not {out.name!r}"
        )
    read = (lora, Path(model) if Path(model).suffix else None)
    check_output_file(out, inputs=read, overwrite=overwrite)
    loaded = yield from load_model_steps(
        model, device="cpu", precision="exact", folder=folder
    )
    describe = MODEL_FAMILIES[loaded.family].metadata
    if out.suffix == ".pth" and describe is not None:
        raise SettingsError(
            f"models of family {loaded.family} are written as .safetensors: a .pth "
            "does not hold all that is needed to build them again"
        )
    if lora is not None:
        yield Progress("merging adapters")
        try:
            load_lora(loaded.sam, read_checkpoint(lora).tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{lora}: {error}") from error
        merge_lora(loaded.sam)
    yield Progress(f"writing {out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".pth":
        export_pth(loaded.sam, out)
    else:
        metadata = {} if describe is None else describe(loaded.sam)
        write_tensors(out, loaded.sam.state_dict(), metadata)
    return loaded.family
