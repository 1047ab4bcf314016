"""Models as files for other programs: one that is tuned, with its adapters merged."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory

from napari_samseg.core.errors import CheckpointError, SettingsError
from napari_samseg.core.io.output import check_output_file
from napari_samseg.core.models.checkpoint import Checkpoint, read_checkpoint
from napari_samseg.core.models.families import MODEL_FAMILIES, load_model_steps
from napari_samseg.core.training.lora import TRAINED_KEY, load_lora, merge_lora
from napari_samseg.core.training.package import (
    PackageNotes,
    find_card,
    load_spec,
    write_package,
)
from napari_samseg.core.training.result import export_pth, write_tensors
from napari_samseg.core.types import Progress

__all__ = ["EXPORT_SUFFIXES", "export_steps"]

EXPORT_SUFFIXES = (".pth", ".safetensors")


def export_steps(
    model: str,
    out: Path,
    *,
    lora: Path | None = None,
    package: PackageNotes | None = None,
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
    package : PackageNotes, optional
        Write a package for bioimage.io, a ``.zip``, and say this in it.
    overwrite : bool
        Replace a file that is there.
    folder : Path, optional
        Where downloaded models lie.

    Raises
    ------
    SettingsError
        If the suffix is another one, or does not do for the family; the adapters are
        not all that was trained; or what is said in a package is not valid.
    MissingDependencyError
        If a package is asked for, and bioimage.io's library is not installed.
    OutputError
        If the file cannot be written, or is there already.
    SamSegError
        If the model or the adapters cannot be loaded, or do not fit each other.
    """
    suffixes = EXPORT_SUFFIXES if package is None else (".zip",)
    if out.suffix not in suffixes:
        what = "models" if package is None else "packages"
        raise SettingsError(
            f"{what} are written as {' or '.join(suffixes)}, not {out.name!r}"
        )
    if package is not None:
        load_spec()
    read = (lora, Path(model) if Path(model).suffix else None)
    check_output_file(out, inputs=read, overwrite=overwrite)
    loaded = yield from load_model_steps(
        model, device="cpu", precision="exact", folder=folder
    )
    describe = MODEL_FAMILIES[loaded.family].metadata
    if out.suffix == ".pth" and describe is not None:
        raise SettingsError(
            f"models of family {loaded.family} are written as .safetensors: use "
            f"--out {out.with_suffix('.safetensors')}. A .pth does not hold all that "
            "is needed to build them again, and no other program knows this family"
        )
    if lora is not None:
        yield Progress("merging adapters")
        adapters = read_checkpoint(lora)
        _check_adapters(adapters, lora)
        try:
            load_lora(loaded.sam, adapters.tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{lora}: {error}") from error
        merge_lora(loaded.sam)
    yield Progress(f"writing {out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if package is not None:
        with TemporaryDirectory(prefix=f".{out.stem}_", dir=out.parent) as work:
            card = find_card(model, folder)
            write_package(out, loaded, card, package, Path(work))
    elif out.suffix == ".pth":
        export_pth(loaded.sam, out)
    else:
        metadata = {} if describe is None else describe(loaded.sam)
        write_tensors(out, loaded.sam.state_dict(), metadata)
    return loaded.family


def _check_adapters(adapters: Checkpoint, path: Path) -> None:
    """Refuse adapters that are not all that their training changed."""
    if adapters.metadata.get(TRAINED_KEY, "lora") != "lora":
        raise SettingsError(
            f"{path} holds the adapters of a training that changed mask decoder and "
            "prompt encoder too, which are not in this file: export the model itself "
            f"({path.with_stem(path.stem.removesuffix('_lora')).name}), in which all "
            "is merged"
        )
