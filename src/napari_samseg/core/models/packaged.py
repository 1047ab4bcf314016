"""Models as other programs run them from a package: image and prompts in, masks out.

A package names `build_packaged` as its architecture, gives it what `package_arguments`
returned, and loads its weights into what it makes: they are named as in
`segment_anything`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import segment_anything
import torch
from segment_anything.modeling import Sam

from napari_samseg.core.errors import InvalidPromptError, SettingsError
from napari_samseg.core.models.families import MODEL_FAMILIES
from napari_samseg.core.models.mobile_sam import build_mobile_sam
from napari_samseg.core.models.sam import VIT_NAMES, SamModel, resize_positions
from napari_samseg.core.models.tiny import METADATA_KEY, TinyConfig, build_tiny
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.types import PADDING, PlanePrompts

if TYPE_CHECKING:
    from napari_samseg.core.types import FloatArray, MaskPrediction

__all__ = ["PackagedSam", "build_packaged", "package_arguments"]


class PackagedSam(Sam):  # type: ignore[misc]  # a library without types
    """A model of any family that takes an image and prompts at once.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
        Its parts are taken.
    family : str
        Its key in `MODEL_FAMILIES`.
    """

    def __init__(self, sam: Sam, family: str) -> None:
        super().__init__(
            sam.image_encoder,
            sam.prompt_encoder,
            sam.mask_decoder,
            sam.pixel_mean.flatten().tolist(),
            sam.pixel_std.flatten().tolist(),
        )
        self.family = family

    def forward(
        self,
        image: torch.Tensor,
        boxes: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
        point_labels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the masks of the objects that prompts show.

        Parameters
        ----------
        image : (1, 3, Y, X) tensor
            In 0..255.
        boxes : (1, N, 4) tensor, optional
            ``(y0, x0, y1, x1)``, half-open, in pixels.
        points : (1, N, P, 2) tensor, optional
            ``(y, x)`` in pixels; an integer is the centre of a pixel.
        point_labels : (1, N, P) tensor, optional
            1 on the object, 0 off it, -1 no point; points are on it without.

        Returns
        -------
        masks : (1, N, Y, X) uint8 tensor
        scores : (1, N) float32 tensor
            Predicted IoU.

        Raises
        ------
        InvalidImageError, InvalidPromptError
            If shapes are others, or an object has no prompt.
        """
        if len(image) != 1:
            raise InvalidPromptError(f"give one image at a time, not {len(image)}")
        prompts = _read_prompts(boxes, points, point_labels)
        plane = image[0].permute(1, 2, 0).float().cpu().numpy()
        found = self._predict(plane, prompts)
        masks = torch.from_numpy(found.masks.astype(np.uint8))
        scores = torch.from_numpy(np.array(found.iou_predictions, np.float32))
        return masks[None].to(image.device), scores[None].to(image.device)

    def _predict(self, plane: FloatArray, prompts: PlanePrompts) -> MaskPrediction:
        model = SamModel(
            self,
            name="package",
            family=self.family,
            device=self.device,
            prior=MODEL_FAMILIES[self.family].prior,
        )
        return predict_masks(model, model.encode(plane), prompts)


def _read_prompts(
    boxes: torch.Tensor | None,
    points: torch.Tensor | None,
    labels: torch.Tensor | None,
) -> PlanePrompts:
    given = boxes if points is None else points
    if given is None:
        raise InvalidPromptError("there is no prompt: give boxes, points or both")
    n = given.shape[1]
    boxes_yx = np.full((n, 4), np.nan, np.float32)
    points_yx = np.zeros((n, 0, 2), np.float32)
    if boxes is not None:
        boxes_yx = boxes[0].float().cpu().numpy()
    if points is not None:
        points_yx = points[0].float().cpu().numpy()
    point_labels = np.ones(points_yx.shape[:2], np.int8)
    if labels is not None:
        point_labels = labels[0].cpu().numpy().astype(np.int8)
        points_yx = np.where(point_labels[..., None] == PADDING, 0, points_yx)
    return PlanePrompts(np.arange(1, n + 1), points_yx, point_labels, boxes_yx)


def package_arguments(model: SamModel) -> dict[str, str | int]:
    """Return what `build_packaged` takes to build this model, without its weights."""
    config = ""
    if model.family == "sam":
        width = model.sam.image_encoder.patch_embed.proj.out_channels
        config = VIT_NAMES[width]
    describe = MODEL_FAMILIES[model.family].metadata
    if describe is not None:
        config = describe(model.sam)[METADATA_KEY]
    return {"family": model.family, "input_size": model.input_size, "config": config}


def build_packaged(family: str, input_size: int, config: str = "") -> PackagedSam:
    """Build a model without its weights.

    Parameters
    ----------
    family : str
        Its key in `MODEL_FAMILIES`.
    input_size : int
        Side of the square that its encoder sees, in pixels.
    config : str
        What else tells its shape: ``vit_b``, or the configuration of the embedded
        family as JSON.

    Raises
    ------
    SettingsError
        If there is no such family or configuration.
    """
    sam: Any
    if family == "sam" and config in VIT_NAMES.values():
        sam = segment_anything.sam_model_registry[config]()
        resize_positions(sam, input_size)
    elif family == "mobile_sam":
        sam = build_mobile_sam(input_size)
    elif family == "tiny":
        sam = build_tiny(TinyConfig.from_json(config))
    else:
        raise SettingsError(f"there is no model of family {family!r}, {config!r}")
    found = PackagedSam(sam, family)
    found.eval()
    return found
