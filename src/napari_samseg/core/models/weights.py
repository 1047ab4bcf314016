"""The zoo: published weights by name, downloaded when they are first used."""

from __future__ import annotations

import difflib
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from napari_samseg.core.errors import (
    DownloadError,
    MissingFileError,
    UnknownNameError,
)
from napari_samseg.core.models.tuned_card import describe_card, read_card
from napari_samseg.core.types import Progress

__all__ = [
    "EMBEDDED_FILE",
    "TUNED_FILE",
    "UNSTATED",
    "ZOO",
    "PretrainedModel",
    "RemoteFile",
    "check_model",
    "download",
    "find_model",
    "is_missing",
    "list_models",
    "models_folder",
    "tuned_folder",
    "tuned_models",
]

# Ships with the package, in its folder `data`.
EMBEDDED_FILE = "samseg_tiny.safetensors"
# The weights of a tuned model, in its folder.
TUNED_FILE = "best.safetensors"
FOLDER_VARIABLE = "SAMSEG_MODELS"

SAM_PAPER = "Kirillov et al., Segment Anything, ICCV 2023, arXiv:2304.02643"
MOBILE_SAM_PAPER = (
    "Zhang et al., Faster Segment Anything: Towards Lightweight SAM for Mobile "
    "Applications, 2023, arXiv:2306.14289"
)
MICRO_SAM_PAPER = (
    "Archit et al., Segment Anything for Microscopy, Nature Methods 2025, "
    "doi:10.1038/s41592-024-02580-4"
)
PATHO_SAM_PAPER = (
    "Griebel et al., Segment Anything for Histopathology, 2025, arXiv:2502.00408"
)
MEDICO_SAM_PAPER = (
    "Archit et al., MedicoSAM: Towards foundation models for medical image "
    "segmentation, 2025, arXiv:2501.11734"
)
UNSTATED = "not stated by its authors: ask them before publishing it again"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download.

    Attributes
    ----------
    file_name : str
        Its name in the folder of models.
    url : str
    hash : str
        ``"algorithm:hex"``.
    nbytes : int or None
        Size where a source states it.
    """

    file_name: str
    url: str
    hash: str
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class PretrainedModel:
    """Published weights of a model.

    Attributes
    ----------
    name : str
        Its key in `ZOO`.
    family : str
        Its key in `MODEL_FAMILIES`.
    description : str
        One line for a list.
    checkpoint : RemoteFile
    licence, citation : str
    instance_decoder : RemoteFile or None
        micro-sam's decoder for automatic instance segmentation, a separate network
        on the same embeddings.
    """

    name: str
    family: str
    description: str
    checkpoint: RemoteFile
    licence: str
    citation: str
    instance_decoder: RemoteFile | None = None


# URLs and hashes as micro-sam 1.8 publishes them (micro_sam/util.py); sizes of SAM
# from mirrors that keep the files in Git LFS, whose pointers state them.
ZOO: dict[str, PretrainedModel] = {
    "vit_b": PretrainedModel(
        "vit_b",
        "sam",
        "Segment Anything, trained on photographs: ViT-B, the smallest",
        RemoteFile(
            "sam_vit_b_01ec64.pth",
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            "xxh128:6923c33df3637b6a922d7682bfc9a86b",
            nbytes=375_042_383,
        ),
        licence="Apache-2.0",
        citation=SAM_PAPER,
    ),
    "vit_l": PretrainedModel(
        "vit_l",
        "sam",
        "Segment Anything, trained on photographs: ViT-L, in the middle",
        RemoteFile(
            "sam_vit_l_0b3195.pth",
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
            "xxh128:a82beb3c660661e3dd38d999cc860e9a",
            nbytes=1_249_524_607,
        ),
        licence="Apache-2.0",
        citation=SAM_PAPER,
    ),
    "vit_h": PretrainedModel(
        "vit_h",
        "sam",
        "Segment Anything, trained on photographs: ViT-H, the largest",
        RemoteFile(
            "sam_vit_h_4b8939.pth",
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
            "xxh128:97698fac30bd929c2e6d8d8cc15933c2",
            nbytes=2_564_550_879,
        ),
        licence="Apache-2.0",
        citation=SAM_PAPER,
    ),
    "vit_t": PretrainedModel(
        "vit_t",
        "mobile_sam",
        "MobileSAM: Segment Anything with the small encoder TinyViT",
        RemoteFile(
            "mobile_sam.pt",
            "https://owncloud.gwdg.de/index.php/s/TuDzuwVDHd1ZDnQ/download",
            "xxh128:8eadbc88aeb9d8c7e0b4b60c3db48bd0",
        ),
        licence="Apache-2.0",
        citation=MOBILE_SAM_PAPER,
    ),
    "vit_b_lm": PretrainedModel(
        "vit_b_lm",
        "sam",
        "micro-sam: cells and nuclei in light microscopy, ViT-B",
        RemoteFile(
            "vit_b_lm.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/diplomatic-bug/1.2/files/vit_b.pt",
            "xxh128:fe9252a29f3f4ea53c15a06de471e186",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_lm_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/diplomatic-bug/1.2/files/vit_b_decoder.pt",
            "xxh128:708b15ac620e235f90bb38612c4929ba",
        ),
    ),
    "vit_l_lm": PretrainedModel(
        "vit_l_lm",
        "sam",
        "micro-sam: cells and nuclei in light microscopy, ViT-L",
        RemoteFile(
            "vit_l_lm.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/idealistic-rat/1.2/files/vit_l.pt",
            "xxh128:017f20677997d628426dec80a8018f9d",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_l_lm_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/idealistic-rat/1.2/files/vit_l_decoder.pt",
            "xxh128:2faeafa03819dfe03e7c46a44aaac64a",
        ),
    ),
    "vit_t_lm": PretrainedModel(
        "vit_t_lm",
        "mobile_sam",
        "micro-sam: cells and nuclei in light microscopy, TinyViT",
        RemoteFile(
            "vit_t_lm.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/faithful-chicken/1.1/files/vit_t.pt",
            "xxh128:72ec5074774761a6e5c05a08942f981e",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_t_lm_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/faithful-chicken/1.1/files/vit_t_decoder.pt",
            "xxh128:3e914a5f397b0312cdd36813031f8823",
        ),
    ),
    "vit_b_em_organelles": PretrainedModel(
        "vit_b_em_organelles",
        "sam",
        "micro-sam: mitochondria and nuclei in electron microscopy, ViT-B",
        RemoteFile(
            "vit_b_em_organelles.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/noisy-ox/1.2/files/vit_b.pt",
            "xxh128:f3bf2ed83d691456bae2c3f9a05fb438",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_em_organelles_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/noisy-ox/1.2/files/vit_b_decoder.pt",
            "xxh128:bb6398956a6b0132c26b631c14f95ce2",
        ),
    ),
    "vit_l_em_organelles": PretrainedModel(
        "vit_l_em_organelles",
        "sam",
        "micro-sam: mitochondria and nuclei in electron microscopy, ViT-L",
        RemoteFile(
            "vit_l_em_organelles.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/humorous-crab/1.2/files/vit_l.pt",
            "xxh128:810b084b6e51acdbf760a993d8619f2d",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_l_em_organelles_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/humorous-crab/1.2/files/vit_l_decoder.pt",
            "xxh128:334877640bfdaaabce533e3252a17294",
        ),
    ),
    "vit_t_em_organelles": PretrainedModel(
        "vit_t_em_organelles",
        "mobile_sam",
        "micro-sam: mitochondria and nuclei in electron microscopy, TinyViT",
        RemoteFile(
            "vit_t_em_organelles.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/greedy-whale/1/files/vit_t.pt",
            "xxh128:253474720c497cce605e57c9b1d18fd9",
        ),
        licence="CC-BY-4.0",
        citation=MICRO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_t_em_organelles_decoder.pt",
            "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/greedy-whale/1/files/vit_t_decoder.pt",
            "xxh128:8f897c7bb93174a4d1638827c4dd6f44",
        ),
    ),
    "vit_b_histopathology": PretrainedModel(
        "vit_b_histopathology",
        "sam",
        "PathoSAM: nuclei in histopathology, ViT-B",
        RemoteFile(
            "vit_b_histopathology.pt",
            "https://owncloud.gwdg.de/index.php/s/sBB4H8CTmIoBZsQ/download",
            "xxh128:ffd1a2cd84570458b257bd95fdd8f974",
        ),
        licence=UNSTATED,
        citation=PATHO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_histopathology_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/KO9AWqynI7SFOBj/download",
            "xxh128:6a66194dcb6e36199cbee2214ecf7213",
        ),
    ),
    "vit_l_histopathology": PretrainedModel(
        "vit_l_histopathology",
        "sam",
        "PathoSAM: nuclei in histopathology, ViT-L",
        RemoteFile(
            "vit_l_histopathology.pt",
            "https://owncloud.gwdg.de/index.php/s/IZgnn1cpBq2PHod/download",
            "xxh128:b591833c89754271023e901281dee3f2",
        ),
        licence=UNSTATED,
        citation=PATHO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_l_histopathology_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/oIs6VSmkOp7XrKF/download",
            "xxh128:46aab7765d4400e039772d5a50b55c04",
        ),
    ),
    "vit_h_histopathology": PretrainedModel(
        "vit_h_histopathology",
        "sam",
        "PathoSAM: nuclei in histopathology, ViT-H",
        RemoteFile(
            "vit_h_histopathology.pt",
            "https://owncloud.gwdg.de/index.php/s/L7AcvVz7DoWJ2RZ/download",
            "xxh128:bd1856dafc156a43fb3aa705f1a6e92e",
        ),
        licence=UNSTATED,
        citation=PATHO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_h_histopathology_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/1qAKxy5H0jgwZvM/download",
            "xxh128:3ed9f87e46ad5e16935bd8d722c8dc47",
        ),
    ),
    "vit_b_medical_imaging": PretrainedModel(
        "vit_b_medical_imaging",
        "sam",
        "MedicoSAM: CT, MRI, ultrasound, X-ray and more, ViT-B",
        RemoteFile(
            "vit_b_medical_imaging.pt",
            "https://owncloud.gwdg.de/index.php/s/f5Ol4FrjPQWfjUF/download",
            "xxh128:40169f1e3c03a4b67bff58249c176d92",
        ),
        licence=UNSTATED,
        citation=MEDICO_SAM_PAPER,
        instance_decoder=RemoteFile(
            "vit_b_medical_imaging_decoder.pt",
            "https://owncloud.gwdg.de/index.php/s/ahd3ZhZl2e0RIwz/download",
            "xxh128:9e498b12f526f119b96c88be76e3b2ed",
        ),
    ),
}


def list_models(folder: Path | None = None) -> dict[str, str]:
    """Return all model names with one line on each.

    The embedded model first, then those that were tuned here, then the zoo.

    Parameters
    ----------
    folder : Path, optional
        Where models lie; `models_folder` by default.
    """
    found = {"default": "The embedded model: small, fast, no download"}
    for name, path in tuned_models(folder).items():
        found[name] = describe_card(read_card(path))
    return found | {name: model.description for name, model in ZOO.items()}


def tuned_folder(folder: Path | None = None) -> Path:
    """Return the folder of tuned models, each in a folder of its own."""
    return (models_folder() if folder is None else folder) / "tuned"


def tuned_models(folder: Path | None = None) -> dict[str, Path]:
    """Return the best weights of all models that were tuned here, by name."""
    return {
        path.parent.name: path
        for path in sorted(tuned_folder(folder).glob(f"*/{TUNED_FILE}"))
        if path.parent.name not in ZOO and path.parent.name != "default"
    }


def check_model(name: str | Path, folder: Path | None = None) -> None:
    """Refuse a model that is not there, which needs no torch.

    Parameters
    ----------
    name : str or Path
        Name in the list of models, or path of a checkpoint.
    folder : Path, optional
        Where models lie; `models_folder` by default.

    Raises
    ------
    UnknownNameError
        If it is neither; the message lists what there is.
    MissingFileError
        If there is no such file.
    """
    known = list_models(folder)
    if isinstance(name, str) and name in known:
        return
    path = Path(name).expanduser()
    if path.exists():
        return
    if path.suffix or not isinstance(name, str):
        raise MissingFileError(f"there is no checkpoint {name}")
    near = difflib.get_close_matches(name, known, 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise UnknownNameError(
        f"there is no model {name!r}{meant}: choose one of {', '.join(known)}, or "
        "give the path of a checkpoint"
    )


def is_missing(name: str, folder: Path | None = None) -> bool:
    """Tell whether a model of the zoo is to be downloaded first."""
    folder = models_folder() if folder is None else folder
    return name in ZOO and not (folder / ZOO[name].checkpoint.file_name).exists()


def find_model(name: str) -> PretrainedModel:
    """Return the entry of the zoo called `name`.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists what there is.
    """
    if name not in ZOO:
        raise UnknownNameError(
            f"there is no model {name!r} in the zoo, which has: {', '.join(ZOO)}"
        )
    return ZOO[name]


def models_folder() -> Path:
    """Return the folder of downloaded models.

    The environment variable ``SAMSEG_MODELS`` names it; otherwise it lies in the
    user's cache folder.
    """
    import pooch

    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(pooch.os_cache("napari-samseg")) / "models"


def download(name: str, folder: Path | None = None) -> Generator[Progress, None, Path]:
    """Download the checkpoint of a model, unless it is there, and return its path.

    A transfer that broke or was cancelled goes on where it stopped when this is
    called again.

    Parameters
    ----------
    name : str
        Key in `ZOO`.
    folder : Path, optional
        Where models lie; `models_folder` by default.

    Yields
    ------
    Progress
        In bytes.

    Raises
    ------
    UnknownNameError
        If there is no such model in the zoo.
    DownloadError
        If the file cannot be had; the message says where to put it by hand.
    """
    from napari_samseg.core.models.transfer import has_hash, transfer

    file = find_model(name).checkpoint
    path = (models_folder() if folder is None else folder) / file.file_name
    stage = f"downloading {name}"
    if path.exists():
        yield Progress(stage, detail="checking the file")
        if has_hash(path, file.hash):
            return path
        raise DownloadError(
            f"{path} is not the published {name} (its hash differs): remove it to "
            "download it again, or load it by its path if it is yours"
        )
    try:
        yield from transfer(file.url, path, file.hash, stage=stage)
    except DownloadError as error:
        raise DownloadError(
            f"{name} could not be downloaded: {error}. Fetch {file.url} on another "
            f"machine and save it as {path}, or let {FOLDER_VARIABLE} name the folder "
            f"that holds {file.file_name}"
        ) from error
    return path
