"""SAM behind the core's protocol, for every family that shares its parts."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import segment_anything
import torch
import torch.nn.functional as F
import xxhash
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import nn

from napari_samseg.core.errors import (
    CheckpointError,
    InvalidImageError,
    InvalidPromptError,
    SettingsError,
)
from napari_samseg.core.models.attention import Stage, fast_stages
from napari_samseg.core.models.decoding import decode_objects
from napari_samseg.core.models.device import full_products
from napari_samseg.core.models.frame import (
    boxes_to_frame,
    points_to_frame,
    resize_plane,
    resized_size,
)
from napari_samseg.core.models.mobile_sam import TinyViT
from napari_samseg.core.models.protocol import DecodedMasks
from napari_samseg.core.steps import run_steps
from napari_samseg.core.types import PADDING, PlaneEmbedding, Progress

if TYPE_CHECKING:
    from napari_samseg.core.types import FloatArray, PlanePrompts

__all__ = ["PromptPrior", "SamModel", "build_sam", "is_sam", "resize_positions"]

# Width of the ViT: its name in segment_anything's registry.
VIT_NAMES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
# Cores that a ViT's large products keep busy; its pieces fill their common cache.
VIT_THREADS = 4
PATCH = 16


class PromptPrior(Protocol):
    """Draws the mask prompt a family wants where the person gave none."""

    def __call__(
        self,
        points_xy: torch.Tensor | None,
        labels: torch.Tensor | None,
        boxes_xyxy: torch.Tensor | None,
        mask_size: int,
        input_size: int,
    ) -> torch.Tensor:
        """Return (N, 1, m, m) logits; all coordinates are model pixels."""


class SamModel:
    """A `segment_anything.modeling.Sam` that fulfils `PromptableModel`.

    The encoder runs under autocast in `dtype`; prompt encoder and mask decoder
    always run in float32, where they cost little and masks stay comparable.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
        With its weights; it is moved to `device` and set to evaluation mode.
    name, family : str
        What `PromptableModel` calls so.
    device : torch.device
    dtype : torch.dtype
    prior : PromptPrior, optional
        Mask prompt of this family where the person gave none.
    """

    def __init__(
        self,
        sam: Sam,
        *,
        name: str,
        family: str,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        prior: PromptPrior | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.sam = sam.to(self.device).eval().requires_grad_(False)
        self.name = name
        self.family = family
        self.dtype = dtype
        self.prior = prior

    def __repr__(self) -> str:
        return f"<SamModel {self.name} ({self.family}) on {self.device}, {self.dtype}>"

    @property
    def input_size(self) -> int:
        """Side of the square the encoder sees, in pixels."""
        return int(self.sam.image_encoder.img_size)

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of ``image_embed``."""
        height, width = self.sam.prompt_encoder.image_embedding_size
        return self.sam.prompt_encoder.embed_dim, height, width

    @property
    def low_res_size(self) -> int:
        """Side of the decoder's square logits, in pixels."""
        return int(self.sam.prompt_encoder.mask_input_size[0])

    @property
    def plane_threads(self) -> int:
        """Threads of a processor that encoding one plane makes good use of."""
        is_vit = isinstance(self.sam.image_encoder, ImageEncoderViT)
        return VIT_THREADS if is_vit else 1

    @cached_property
    def encoder_digest(self) -> str:
        """Hash of the encoder's tensors, family and input size, never the decoder's."""
        digest = xxhash.xxh3_128(f"{self.family} {self.input_size}".encode())
        digest.update(self.sam.pixel_mean.cpu().numpy().tobytes())
        digest.update(self.sam.pixel_std.cpu().numpy().tobytes())
        for name, tensor in sorted(self.sam.image_encoder.state_dict().items()):
            values = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {values.shape} {values.dtype.str}".encode())
            digest.update(values.data if values.ndim else values.tobytes())
        return digest.hexdigest()

    @cached_property
    def _cpu_copy(self) -> SamModel:
        # deepcopy would copy on the device, which may be full: the memo makes it
        # take these copies instead.
        tensors = [*self.sam.parameters(), *self.sam.buffers()]
        memo: dict[int, object] = {}
        for tensor in tensors:
            moved = tensor.detach().cpu()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = (
                nn.Parameter(moved, requires_grad=False) if is_parameter else moved
            )
        return SamModel(
            copy.deepcopy(self.sam, memo),
            name=self.name,
            family=self.family,
            prior=self.prior,
        )

    def drop_copies(self) -> None:
        """Forget what `on_cpu` has made, for weights that have changed since."""
        self.__dict__.pop("_cpu_copy", None)

    def on_cpu(self) -> SamModel:
        """Return this model in float32 on the CPU: itself if it is there already."""
        return self if self.device.type == "cpu" else self._cpu_copy

    def encode(self, plane: FloatArray) -> PlaneEmbedding:
        """Encode one plane, (Y, X, 3) float32 in 0..255."""
        return run_steps(self.encode_steps(plane))

    def encode_steps(
        self, plane: FloatArray
    ) -> Generator[Progress, None, PlaneEmbedding]:
        """Encode as `encode` does, yielding between blocks so that others go first."""
        embeddings = yield from self.encode_batch_steps([plane])
        return embeddings[0]

    def encode_batch_steps(
        self, planes: Sequence[FloatArray]
    ) -> Generator[Progress, None, list[PlaneEmbedding]]:
        """Encode planes (Y, X, 3) of any sizes at once, yielding between blocks."""
        for plane in planes:
            if plane.ndim != 3 or plane.shape[2] != 3 or 0 in plane.shape:
                raise InvalidImageError(
                    f"a plane to encode is (Y, X, 3) and not empty, got {plane.shape}"
                )
        tokens = self._preprocess(planes)
        stages = _encoder_stages(self.sam.image_encoder, self.dtype)
        for done, stage in enumerate(stages):
            # The modes are entered anew each time: they belong to the thread, or the
            # program, which does other things while this generator waits.
            with torch.inference_mode(), full_products(self.dtype):
                tokens = stage(tokens)
            if done + 1 < len(stages):
                yield Progress("encoding", done + 1, len(stages))
        return [
            self._embedding(plane, features)
            for plane, features in zip(planes, tokens.unbind(), strict=True)
        ]

    def _preprocess(self, planes: Sequence[FloatArray]) -> torch.Tensor:
        """Return the model's squares of some planes, (N, 3, side, side)."""
        side = self.input_size
        with torch.inference_mode():
            return torch.cat(
                [
                    self.sam.preprocess(resize_plane(plane, side).to(self.device))
                    for plane in planes
                ]
            )

    def _embedding(self, plane: FloatArray, features: torch.Tensor) -> PlaneEmbedding:
        original_size = (plane.shape[0], plane.shape[1])
        # a copy: a view would keep the whole batch in the memory of a cache
        array = np.array(features.float().cpu().numpy(), order="C")
        array.flags.writeable = False  # caches hand the same array to everyone
        return PlaneEmbedding(
            features={"image_embed": array},
            original_size=original_size,
            input_size=resized_size(original_size, self.input_size),
            encoder_digest=self.encoder_digest,
        )

    def decode(
        self, embedding: PlaneEmbedding, prompts: PlanePrompts, *, multimask: bool
    ) -> DecodedMasks:
        """Decode objects that all have the same kinds of prompt."""
        points, labels = self._points(embedding, prompts)
        boxes = self._boxes(embedding, prompts)
        masks = self._masks(prompts)
        with torch.inference_mode(), full_products(torch.float32):
            if masks is None and self.prior is not None:
                masks = self.prior(
                    points, labels, boxes, self.low_res_size, self.input_size
                )
            sparse, dense = self.sam.prompt_encoder(
                points=None if points is None else (points, labels),
                boxes=boxes,
                masks=masks,
            )
            logits, iou = decode_objects(
                self.sam.mask_decoder,
                self._features(embedding),
                self.sam.prompt_encoder.get_dense_pe(),
                sparse,
                dense,
                masks=slice(1, None) if multimask else slice(0, 1),
            )
            return DecodedMasks(logits.cpu().numpy(), iou.cpu().numpy())

    def _features(self, embedding: PlaneEmbedding) -> torch.Tensor:
        features = embedding.features["image_embed"]
        if features.shape != self.embedding_shape:
            raise SettingsError(
                f"the embedding has shape {features.shape}, model {self.name} makes "
                f"{self.embedding_shape}: encode the plane with this model"
            )
        return self._tensor(np.asarray(features, np.float32))[None]

    def _points(
        self, embedding: PlaneEmbedding, prompts: PlanePrompts
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the points in the model frame without padding, and their labels."""
        count = _same_for_all(prompts.n_points, "numbers of points")
        if not count:
            return None, None
        # Padding may stand anywhere in a row; a stable sort keeps the others' order.
        order = np.argsort(prompts.point_labels == PADDING, axis=1, kind="stable")
        order = order[:, :count]
        points = np.take_along_axis(prompts.points_yx, order[..., None], axis=1)
        labels = np.take_along_axis(prompts.point_labels, order, axis=1)
        frame = points_to_frame(points, embedding.original_size, self.input_size)
        return self._tensor(frame), self._tensor(labels.astype(np.int32))

    def _boxes(
        self, embedding: PlaneEmbedding, prompts: PlanePrompts
    ) -> torch.Tensor | None:
        if not _same_for_all(prompts.has_box, "kinds of prompt (with and without box)"):
            return None
        return self._tensor(
            boxes_to_frame(prompts.boxes_yx, embedding.original_size, self.input_size)
        )

    def _masks(self, prompts: PlanePrompts) -> torch.Tensor | None:
        masks = prompts.low_res_masks
        kind = "kinds of prompt (with and without mask)"
        if masks is None or not _same_for_all(prompts.has_mask, kind):
            return None
        side = self.low_res_size
        if masks.shape[1:] != (side, side):
            raise InvalidPromptError(
                f"mask prompts are {masks.shape[1]} x {masks.shape[2]}, model "
                f"{self.name} takes {side} x {side} logits"
            )
        return self._tensor(masks[:, None])

    def _tensor(self, array: np.ndarray[tuple[int, ...], np.dtype]) -> torch.Tensor:
        # torch warns about arrays that cannot be written, which frozen values are.
        array = np.ascontiguousarray(array)
        if not array.flags.writeable:
            array = array.copy()
        return torch.from_numpy(array).to(self.device)


def _same_for_all(values: np.ndarray[tuple[int], np.dtype], what: str) -> int:
    if len(values) == 0:
        raise InvalidPromptError("there is no prompt to decode")
    if (values != values[0]).any():
        raise InvalidPromptError(
            f"objects decoded together have different {what}: use "
            "napari_samseg.core.predict.predict_masks, which groups them"
        )
    return int(values[0])


def _encoder_stages(encoder: nn.Module, dtype: torch.dtype) -> Sequence[Stage]:
    """Return the steps of an encoder which, one after the other, are its forward."""
    if isinstance(encoder, ImageEncoderViT):
        return fast_stages(encoder, dtype)
    stages: Sequence[Stage] = (encoder,)
    if isinstance(encoder, TinyViT):
        stages = encoder.forward_stages()
    return tuple(_under_autocast(stage, dtype) for stage in stages)


def _under_autocast(stage: Stage, dtype: torch.dtype) -> Stage:
    if dtype == torch.float32:
        return stage

    def run(tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast(tokens.device.type, dtype=dtype):
            return stage(tokens)

    return run


def is_sam(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a state dict has the ViT encoder of segment_anything."""
    starts = ("image_encoder.blocks.", "image_encoder.patch_embed.proj.")
    return any(name.startswith(starts) for name in tensors)


def build_sam(tensors: Mapping[str, torch.Tensor]) -> Sam:
    """Build the ViT that fits a state dict, without its weights.

    Raises
    ------
    CheckpointError
        If the width is none of vit_b, vit_l and vit_h.
    """
    position = tensors.get("image_encoder.pos_embed")
    width = position if position is None else position.shape[-1]
    if width is None:
        kernel = tensors.get("image_encoder.patch_embed.proj.weight")
        width = kernel if kernel is None else kernel.shape[0]
    if width not in VIT_NAMES:
        known = ", ".join(f"{size} ({name})" for size, name in VIT_NAMES.items())
        raise CheckpointError(
            f"the encoder's width is {width or 'missing'}; known widths: {known}"
        )
    sam: Sam = segment_anything.sam_model_registry[VIT_NAMES[width]]()
    if position is not None and position.ndim == 4:
        resize_positions(sam, position.shape[1] * PATCH)
    return sam


def resize_positions(sam: Sam, input_size: int) -> None:
    """Make a ViT take squares of another size, interpolating its positions.

    Absolute positions are interpolated bicubically, relative ones of the global
    blocks linearly, as `segment_anything` does when it reads them.

    Parameters
    ----------
    sam : segment_anything.modeling.Sam
        Changed in place.
    input_size : int
        Side of the square, in pixels, a multiple of 16.

    Raises
    ------
    SettingsError
        If `input_size` is not a positive multiple of 16.
    """
    if input_size <= 0 or input_size % PATCH:
        raise SettingsError(
            f"input size {input_size} is not a positive multiple of {PATCH}"
        )
    encoder, prompts = sam.image_encoder, sam.prompt_encoder
    if encoder.img_size == input_size:
        return
    grid = input_size // PATCH
    if isinstance(encoder, ImageEncoderViT):
        _resize_vit_positions(encoder, grid)
    encoder.img_size = input_size
    prompts.input_image_size = (input_size, input_size)
    prompts.image_embedding_size = (grid, grid)
    prompts.mask_input_size = (4 * grid, 4 * grid)


def _resize_vit_positions(encoder: ImageEncoderViT, grid: int) -> None:
    if encoder.pos_embed is not None:
        positions = encoder.pos_embed.detach().permute(0, 3, 1, 2)
        resized = F.interpolate(
            positions, (grid, grid), mode="bicubic", align_corners=False, antialias=True
        )
        encoder.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1).contiguous())
    for block in encoder.blocks:
        if block.window_size > 0 or not block.attn.use_rel_pos:
            continue
        for name in ("rel_pos_h", "rel_pos_w"):
            table = getattr(block.attn, name).detach().T[None]
            longer = F.interpolate(table, 2 * grid - 1, mode="linear")
            setattr(block.attn, name, nn.Parameter(longer[0].T.contiguous()))
