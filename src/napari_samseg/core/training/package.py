"""Models as packages of bioimage.io: description, weights, tests, picture and words.

The description is version 0.5 of the model specification
(https://bioimage-io.github.io/spec-bioimage-io), which its own library validates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.models import packaged
from napari_samseg.core.models.packaged import PackagedSam, package_arguments
from napari_samseg.core.models.tuned_card import card_scores, read_card
from napari_samseg.core.models.weights import tuned_models
from napari_samseg.core.models.zoo import UNSTATED, ZOO
from napari_samseg.core.optional import import_optional
from napari_samseg.core.overlay import draw_overlay
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.training.result import export_pth
from napari_samseg.core.types import PlanePrompts

if TYPE_CHECKING:
    from napari_samseg.core.models.sam import SamModel
    from napari_samseg.core.types import FloatArray

__all__ = ["PackageNotes", "find_card", "load_spec", "write_package"]

SOURCE = "https://github.com/napari-samseg/napari-samseg"
TAGS = (
    "segment-anything",
    "instance-segmentation",
    "interactive-segmentation",
    "2d",
    "pytorch",
    "napari",
)
WHAT_IT_DOES = (
    "It takes one image of three channels in 0..255, and for each object a box "
    "`(y0, x0, y1, x1)`, points `(y, x)`, or both, in pixels. It returns a mask for "
    "each object, and the IoU that it expects of it. `weights.pt` has the names of "
    "`segment_anything`."
)
HOW_SCORED = (
    "On objects that it was not trained on: IoU (`box`, `point`) and Dice by a "
    "jittered box and by a random point, before and after the training."
)
NO_SCORES = (
    "No scores are known. `napari-samseg models compare` scores a model on labelled "
    "images by boxes and points."
)
# Boxes of two of scikit-image's coins, in the part of the picture that tests see.
COVER = 512, 512
COINS = (slice(150, 278), slice(40, 168))
BOXES = ((25, 40, 67, 84), (95, 52, 128, 96))


@dataclass(frozen=True, slots=True)
class PackageNotes:
    """What a person says of a model in a package.

    Attributes
    ----------
    authors : sequence of str
        Names.
    licence : str
        By its SPDX name, such as CC-BY-4.0; that of the model it was made from if
        empty, where that is known.
    """

    authors: Sequence[str] = field(default=())
    licence: str = ""


def load_spec() -> Any:
    """Import the library of the specification, or say how to get it."""
    return import_optional(
        "bioimageio.spec",
        "napari-samseg[bioimageio]",
        "packages for bioimage.io are validated by its own library",
    )


def find_card(model: str, folder: Path | None = None) -> dict[str, Any]:
    """Return the card of a model that was tuned here; empty where there is none."""
    return read_card(tuned_models(folder).get(model, Path(model)))


def write_package(
    out: Path,
    model: SamModel,
    card: Mapping[str, Any],
    notes: PackageNotes,
    work: Path,
) -> None:
    """Write a package that bioimage.io's library finds valid.

    Parameters
    ----------
    out : Path
        The ``.zip``.
    model : SamModel
    card : mapping
        As `find_card` returns it.
    notes : PackageNotes
    work : Path
        An empty folder for what goes into it, on the disk of `out`.

    Raises
    ------
    SettingsError
        If the description is not valid, as with a licence that SPDX does not know.
    MissingDependencyError
        If bioimage.io's library is not installed.
    """
    spec = load_spec()
    base = ZOO.get(card["base"]["name"] if card else model.name)
    # what is not known is left out, rather than guessed
    known = "" if base is None or base.licence == UNSTATED else base.licence
    licence = notes.licence or known
    citation = (base or ZOO["vit_b"]).citation  # of the architecture
    export_pth(model.sam, work / "weights.pt")
    _write_tests(work, model)
    (work / "README.md").write_text(_words(model, card), encoding="utf-8")
    (work / "environment.yaml").write_text(_environment(), encoding="utf-8")
    if card:
        text = json.dumps(card, indent=2, ensure_ascii=False)
        (work / "card.json").write_text(text, encoding="utf-8")
    content: dict[str, Any] = {
        "type": "model",
        "format_version": spec.model.v0_5.ModelDescr.implemented_format_version,
        "name": _title(model, card),
        "description": _summary(card, model),
        "authors": [{"name": name} for name in notes.authors],
        "cite": [_citation(citation)],
        "covers": [{"source": "cover.png"}],
        "documentation": {"source": "README.md"},
        "attachments": [{"source": "card.json"}] if card else [],
        "git_repo": SOURCE,
        "tags": [*TAGS, model.family],
        "inputs": _inputs(),
        "outputs": _outputs(),
        "weights": {"pytorch_state_dict": _weights(model)},
    }
    if licence:
        content["license"] = licence
    context = spec.ValidationContext(root=work, file_name="rdf.yaml")
    found = spec.build_description(content, context=context)
    if isinstance(found, spec.InvalidDescr):
        raise SettingsError(
            "the description of the model is not valid: "
            + "; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in _errors(found))
        )
    unfinished = work / "package.zip"
    with context:
        spec.save_bioimageio_package(found, output_path=unfinished)
    unfinished.replace(out)


def _errors(found: Any) -> list[Any]:
    return [e for detail in found.validation_summary.details for e in detail.errors]


def _title(model: SamModel, card: Mapping[str, Any]) -> str:
    name = str(card.get("name", model.name)).removesuffix(".safetensors")
    return "SAM " + re.sub(r"[^\w()\- ]", "_", name)


def _summary(card: Mapping[str, Any], model: SamModel) -> str:
    made = f" tuned from {card['base']['name']}" if card else ""
    return (
        f"Segment Anything (family {model.family}){made}: masks of the objects that "
        "boxes and points show"
    )


def _citation(text: str) -> dict[str, str]:
    words, _, number = text.rpartition(", ")
    kind, _, name = number.partition(":")
    if kind == "doi":
        return {"text": words, "doi": name}
    return {"text": words, "url": f"https://arxiv.org/abs/{name}"}


def _channels(*names: str) -> dict[str, Any]:
    return {"type": "channel", "channel_names": list(names)}


def _inputs() -> list[dict[str, Any]]:
    batch = {"type": "batch", "size": 1}
    # libraries try the smallest size with the prompts of the test
    size = {"min": COINS[0].stop - COINS[0].start, "step": 1}
    space = [{"type": "space", "id": axis, "size": size} for axis in "yx"]
    one_or_more = {"min": 1, "step": 1}
    objects, point = (
        {"type": "index", "id": axis, "size": one_or_more}
        for axis in ("object", "point")
    )
    label_axes = [
        {"type": "index", "id": axis, "size": {"tensor_id": "points", "axis_id": axis}}
        for axis in ("object", "point")
    ]
    float32 = {"type": "float32"}
    return [
        {
            "id": "image",
            "description": "grey levels or colours in 0..255",
            "axes": [batch, _channels("red", "green", "blue"), *space],
            "data": {"type": "float32", "range": [0, 255]},
            "test_tensor": {"source": "image.npy"},
        },
        {
            "id": "boxes",
            "description": "half-open, in pixels",
            "optional": True,
            "axes": [batch, objects, _channels("y0", "x0", "y1", "x1")],
            "data": float32,
            "test_tensor": {"source": "boxes.npy"},
        },
        {
            "id": "points",
            "description": "in pixels; an integer is the centre of one",
            "optional": True,
            "axes": [batch, objects, point, _channels("y", "x")],
            "data": float32,
            "test_tensor": {"source": "points.npy"},
        },
        {
            "id": "point_labels",
            "description": "1 on the object, 0 off it, -1 no point",
            "optional": True,
            "axes": [batch, *label_axes],
            "data": {"type": "int64"},
            "test_tensor": {"source": "point_labels.npy"},
        },
    ]


def _outputs() -> list[dict[str, Any]]:
    objects = {"type": "index", "id": "object", "size": {"min": 1}}
    space = [
        {"type": "space", "id": axis, "size": {"tensor_id": "image", "axis_id": axis}}
        for axis in "yx"
    ]
    batch = {"type": "batch", "size": 1}
    return [
        {
            "id": "masks",
            "description": "1 inside the object",
            "axes": [batch, objects, *space],
            "data": {"type": "uint8", "values": [0, 1]},
            "test_tensor": {"source": "masks.npy"},
        },
        {
            "id": "scores",
            "description": "predicted IoU",
            "axes": [batch, objects],
            "data": {"type": "float32"},
            "test_tensor": {"source": "scores.npy"},
        },
    ]


def _weights(model: SamModel) -> dict[str, Any]:
    return {
        "source": "weights.pt",
        "architecture": {
            "callable": packaged.build_packaged.__name__,
            "import_from": packaged.__name__,
            "kwargs": package_arguments(model),
        },
        "pytorch_version": torch.__version__.split("+")[0],
        "dependencies": {"source": "environment.yaml"},
    }


def _write_tests(work: Path, model: SamModel) -> None:
    """Write what the model is tested with, what it answers, and a picture of that."""
    from skimage.data import coins

    plane: FloatArray = np.repeat(coins()[COINS][..., None], 3, 2).astype(np.float32)
    boxes = np.array(BOXES, np.float32)
    points = ((boxes[:, :2] + boxes[:, 2:]) // 2)[:, None]
    labels = np.ones(points.shape[:2], np.int64)
    tensors: dict[str, npt.NDArray[Any]] = {
        "image": np.ascontiguousarray(plane.transpose(2, 0, 1)),
        "boxes": boxes,
        "points": points,
        "point_labels": labels,
    }
    given = {name: array[None] for name, array in tensors.items()}
    with torch.inference_mode():
        masks, scores = PackagedSam(model.sam, model.family)(
            *(torch.from_numpy(array) for array in given.values())
        )
    for name, array in (
        *given.items(),
        ("masks", masks.numpy()),
        ("scores", scores.numpy()),
    ):
        np.save(work / f"{name}.npy", array)
    prompts = PlanePrompts(
        np.arange(1, len(boxes) + 1), points, labels.astype(np.int8), boxes
    )
    found = predict_masks(model, model.encode(plane), prompts)
    cover = Image.fromarray(draw_overlay(plane, found, prompts))
    cover.thumbnail(COVER)
    cover.save(work / "cover.png")


def _environment() -> str:
    return (
        "name: napari-samseg\n"
        "channels: [conda-forge]\n"
        "dependencies:\n"
        '  - "python>=3.11"\n'
        "  - pytorch\n"
        "  - pip\n"
        f"  - pip: [napari-samseg, torch=={torch.__version__.split('+')[0]}]\n"
    )


def _words(model: SamModel, card: Mapping[str, Any]) -> str:
    """Return the documentation of a model: what it takes, and how good it was."""
    lines = [
        f"# {_title(model, card)}",
        "",
        _summary(card, model) + f". Written by napari-samseg ({SOURCE}) "
        f"{version('napari-samseg')}.",
        "",
        WHAT_IT_DOES,
        "",
        "## Validation",
        "",
        *_scores(card),
    ]
    images = [str(image["name"]) for image in card.get("images", ())]
    if images:
        lines += ["", "## Data", "", *(f"- {name}" for name in images)]
    return "\n".join(lines) + "\n"


def _scores(card: Mapping[str, Any]) -> list[str]:
    before, after = card_scores(card)
    if not after:
        return [NO_SCORES]
    rows = [
        f"| {name} | {before.get(name, float('nan')):.3f} | {value:.3f} |"
        for name, value in after.items()
    ]
    return [
        HOW_SCORED,
        "",
        "| score | before | after |",
        "| --- | --- | --- |",
        *rows,
    ]
