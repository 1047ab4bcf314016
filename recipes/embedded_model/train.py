"""Train the embedded model: `python recipes/embedded_model/train.py --data DIR`.

The encoder starts on dense targets (object, boundary, offset to the object's centre),
which teach it what an object is; prompts follow. Every step's loss and every
validation goes into ``log.csv``; ``state.pt`` takes the run up again with --resume.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from crops import CANVAS, CropBatch, CropPlan, CropSource, augment_pixels
from pack import PackedImage, read_pack, read_training_sets, write_pack
from torch import nn
from torch.nn import functional

from napari_samseg.core.models.tiny import (
    TinyConfig,
    build_tiny,
    fold_batch_norm,
    prompt_prior,
)
from napari_samseg.core.training.loop import LoopSettings, TrainingLoop
from napari_samseg.core.training.losses import dice_loss
from napari_samseg.core.training.objective import decode_objects, object_loss

DENSE_CHANNELS = 4  # object, boundary, offset y, offset x
WARMUP = 0.06  # share of the steps on dense targets alone
FREEZE_NORM = 0.75  # from here on the running statistics stay
SMALL, MIDDLE, LARGE = CropPlan(160, 16, 4), CropPlan(320, 4, 7), CropPlan(512, 1, 12)


class TrainedModel(nn.Module):
    """The model and the dense head that is thrown away in the end."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.sam = build_tiny(config)
        self.dense = nn.Conv2d(config.embed_dim, DENSE_CHANNELS * 16, 1)
        self.to(memory_format=torch.channels_last)


def plan_at(step: int, steps: int, seed: int) -> CropPlan:
    """Mostly small crops; large ones grow more frequent so that far tokens are seen."""
    progress = step / steps
    draw = np.random.default_rng((seed, step, 7)).random()
    if progress < WARMUP:
        return SMALL
    late = progress > 0.7
    if draw < (0.12 if late else 0.03):
        return LARGE
    return MIDDLE if draw < (0.45 if late else 0.15) else SMALL


def dense_targets(labels: torch.Tensor) -> torch.Tensor:
    """Object, boundary and offset to the centre, (B, 4, Y, X), of labels (B, Y, X)."""
    b, h, w = labels.shape
    inside = labels > 0
    padded = functional.pad(labels.float()[:, None], (1, 1, 1, 1), mode="replicate")
    high = functional.max_pool2d(padded, 3, 1)[:, 0]
    low = -functional.max_pool2d(-padded, 3, 1)[:, 0]
    boundary = high != low
    span = int(labels.max()) + 1
    key = (labels + span * torch.arange(b)[:, None, None]).flatten()
    yy, xx = (v.expand(b, h, w).flatten() for v in torch.meshgrid(
        torch.arange(h).float(), torch.arange(w).float(), indexing="ij"
    ))
    count = torch.bincount(key, minlength=span * b).clamp(min=1).float()
    centre_y = torch.bincount(key, yy, span * b).float() / count
    centre_x = torch.bincount(key, xx, span * b).float() / count
    size = count.sqrt()[key]
    dy, dx = (centre_y[key] - yy) / size, (centre_x[key] - xx) / size
    offsets = torch.stack([dy, dx]).view(2, b, h, w).clamp(-2, 2) * inside
    return torch.stack([inside.float(), boundary.float(), *offsets], dim=1)


def dense_loss(prediction: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of the dense head's (B, 64, h, w) against labels at twice-half resolution."""
    maps = functional.pixel_shuffle(prediction, 4)
    target = dense_targets(labels)
    inside, boundary = target[:, 0], target[:, 1]
    cost = functional.binary_cross_entropy_with_logits(maps[:, 0], inside)
    weight = 1 + 3 * boundary
    edge = functional.binary_cross_entropy_with_logits(maps[:, 1], boundary, weight)
    offset = functional.smooth_l1_loss(maps[:, 2:], target[:, 2:], reduction="none")
    offset = (offset.sum(1) * inside).sum() / inside.sum().clamp(min=1)
    overlap = dice_loss(maps[:, 0].flatten(1), inside.flatten(1)).mean()
    return cost + overlap + 0.7 * edge + offset


class Objective:
    """The loss of a step: dense targets at first, then prompts as well."""

    def __init__(self, settings: LoopSettings) -> None:
        self.settings = settings

    def __call__(
        self, module: nn.Module, batch: CropBatch, step: int
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Return the loss and the figures for the log."""
        assert isinstance(module, TrainedModel)
        sam, progress = module.sam, step / self.settings.steps
        sam.image_encoder.train(progress < FREEZE_NORM)
        device = sam.pixel_mean.device
        pixels = (batch.pixels.to(device) - sam.pixel_mean) / sam.pixel_std
        pixels = pixels * batch.valid.to(device)
        features = sam.image_encoder(pixels.contiguous(memory_format=torch.channels_last))
        dense = dense_loss(module.dense(features), batch.labels.to(device))
        if progress < WARMUP:
            return dense, {"dense": float(dense.detach())}
        losses, ious = prompted_loss(sam, features, batch, step)
        loss = losses + (0.1 if progress < 0.6 else 0.03) * dense
        return loss, {"dense": float(dense.detach()), **ious}


def prompted_loss(
    sam: nn.Module, features: torch.Tensor, batch: CropBatch, step: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of boxes and lone points, or every fifth step of mixed prompts."""
    size = batch.pixels.shape[-1]
    x, y = (v // 8 for v in batch.offset_xy)
    tokens = size // 8
    positions = sam.prompt_encoder.get_dense_pe()[..., y : y + tokens, x : x + tokens]
    shift = torch.tensor(batch.offset_xy, dtype=torch.float32)
    n = len(batch.image_index)
    half = torch.arange(n) % 2 == step // 5 % 2
    mixed = step % 5 == 0
    sparse = torch.empty(n, 3 if mixed else 2, features.shape[1])
    prior = torch.empty(n, 1, size // 2, size // 2)
    for box_kind in (True, False):
        rows = half if box_kind else ~half
        count = (1 if mixed else 0) if box_kind else (2 if mixed else 1)
        # a box goes alone or with the second point, which may be a background one
        first = 1 if box_kind else 0
        points = batch.points_xy[rows, first : first + count]
        labels = batch.point_labels[rows, first : first + count]
        boxes = batch.boxes_xyxy[rows] if box_kind else None
        given = (points, labels) if count else (None, None)
        prior[rows] = prompt_prior(*given, boxes, size // 2, size)
        moved = (points + shift, labels) if count else None
        boxes = None if boxes is None else boxes + shift.repeat(2)
        sparse[rows], _ = sam.prompt_encoder(points=moved, boxes=boxes, masks=None)
    dense = sam.prompt_encoder.mask_downscaling(prior)
    logits, quality = decode_objects(
        sam.mask_decoder, features[batch.image_index], positions, sparse, dense
    )
    clear = torch.ones(n, dtype=torch.bool) if mixed else half
    parts, figures = [], {}
    one = object_loss(logits[:, :1], quality[:, :1], batch.targets)
    weight = torch.where(clear, 1.0, 0.2)
    parts.append(((one.mask + one.iou_error) * weight).sum() / n)
    figures["box" if not mixed else "mixed"] = float(one.iou[clear].mean())
    if not mixed:
        rows = ~clear
        targets = type(batch.targets)(
            batch.targets.windows_xyxy[rows], batch.targets.masks[rows]
        )
        three = object_loss(logits[rows, 1:], quality[rows, 1:], targets)
        parts.append((three.mask + three.iou_error).sum() / n)
        figures["point"] = float(three.iou.mean())
    return torch.stack(parts).sum(), figures


class Validation:
    """Mean IoU of boxes and points on a few validation images, as the plugin decodes."""

    def __init__(self, images: list[PackedImage], *, per_image: int = 10) -> None:
        chosen = [i for i in images if i.split == "val"]
        dsb = [i for i in chosen if i.source.startswith("dsb")]
        self.images = dsb[:: max(len(dsb) // 12, 1)][:14]
        self.images += [i for i in chosen if i.source == "axon_sem"]
        self.per_image = per_image
        self.figures: dict[str, float] = {}

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> float:
        """Score the averaged weights."""
        assert isinstance(module, TrainedModel)
        sam = fold_batch_norm(module.sam)
        scores: dict[str, list[float]] = {}
        for image in self.images:
            for key, value in score_image(sam, image, self.per_image):
                scores.setdefault(f"{image.source.split('/')[0]}_{key}", []).append(value)
        self.figures = {key: float(np.mean(v)) for key, v in scores.items()}
        return float(np.mean([v for k, v in self.figures.items() if "ellipse" not in k]))


def score_image(sam: nn.Module, image: PackedImage, count: int) -> list[tuple[str, float]]:
    from skimage.measure import regionprops

    labels = image.labels[0]
    rng = np.random.default_rng(5)
    regions = [r for r in regionprops(labels) if r.area >= 30]
    if image.source == "axon_sem":
        count *= 6
    regions = [regions[i] for i in rng.permutation(len(regions))[:count]]
    h, w = labels.shape
    s = CANVAS / max(h, w)
    nh, nw = int(h * s + 0.5), int(w * s + 0.5)
    px = torch.from_numpy(np.atleast_3d(image.pixels)).permute(2, 0, 1)[None].float()
    px = functional.interpolate(px, (nh, nw), mode="bilinear", antialias=True, align_corners=False)
    px = sam.preprocess(px.expand(-1, 3, -1, -1))
    features = sam.image_encoder(px)
    out: list[tuple[str, float]] = []
    for start in range(0, len(regions), 6):
        part = regions[start : start + 6]
        boxes, points = [], []
        for r in part:
            y0, x0, y1, x1 = r.bbox
            j = rng.uniform(-0.1, 0.1, 4) * [y1 - y0, x1 - x0, y1 - y0, x1 - x0]
            boxes.append(np.array(r.bbox) + j)
            points.append(r.coords[rng.integers(len(r.coords))])
        b, p = np.array(boxes), np.array(points)
        bx = torch.tensor((b[:, [1, 0, 3, 2]] - [0, 0, 1, 1]) * s).float()
        pt = torch.tensor(p[:, None, ::-1] * s).float()
        lb = torch.ones(len(part), 1)
        for kind, prompts in (("box", (None, bx)), ("point", ((pt, lb), None))):
            pts, bbs = prompts
            prior = prompt_prior(*(pts or (None, None)), bbs, CANVAS // 2, CANVAS)
            sparse, dense = sam.prompt_encoder(points=pts, boxes=bbs, masks=prior)
            logits, iou = sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, kind == "point")
            best = iou.argmax(1)
            logits = logits[torch.arange(len(part)), best][:, None]
            masks = (sam.postprocess_masks(logits, (nh, nw), (h, w)) > 0)[:, 0].numpy()
            for r, m in zip(part, masks):
                t = labels == r.label
                out.append((kind, (m & t).sum() / (m | t).sum()))
        yy, xx = np.mgrid[:h, :w] + 0.5
        for r, (y0, x0, y1, x1) in zip(part, b):
            e = ((yy - (y0 + y1) / 2) / (y1 - y0) * 2) ** 2 + ((xx - (x0 + x1) / 2) / (x1 - x0) * 2) ** 2 < 1
            t = labels == r.label
            out.append(("ellipse", (e & t).sum() / (e | t).sum()))
    return out


def main() -> None:
    """Train, and print a line now and then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--generated", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pack = options.out / "pack.npz"
    if not pack.exists():
        write_pack(pack, read_training_sets(options.data, options.generated))
    images = read_pack(pack)
    source, validation = CropSource(images, seed=options.seed), Validation(images)
    settings = LoopSettings(
        steps=options.steps,
        learning_rate=options.learning_rate,
        validate_every=options.validate_every,
        seed=options.seed,
    )
    torch.manual_seed(options.seed)
    module = TrainedModel(TinyConfig(batch_norm=True))

    def batch_at(step: int) -> CropBatch:
        batch = source.batch_at(step, plan_at(step, options.steps, options.seed))
        pixels = augment_pixels(batch.pixels, batch.valid, options.seed + step)
        from dataclasses import replace

        return replace(batch, pixels=pixels)

    state = options.out / "state.pt"
    loop = TrainingLoop(
        module,
        batch_at,
        Objective(settings),
        settings,
        validate=validation,
        checkpoint=state,
    )
    if options.resume:
        loop.resume(state)
    follow(loop, validation, options.out / "log.csv")


def follow(loop: TrainingLoop[CropBatch], validation: Validation, log: Path) -> None:
    """Run the loop, writing every step to the log and some to the terminal."""
    start, means = time.monotonic(), {}
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        for progress in loop.run():
            seconds = time.monotonic() - start
            for key, value in {"loss": progress.train_loss, **loop.figures}.items():
                means[key] = 0.96 * means.get(key, value) + 0.04 * value
                writer.writerow((progress.done, f"{seconds:.1f}", key, f"{value:.4f}"))
            if progress.val_iou is not None:
                for key, value in validation.figures.items():
                    writer.writerow((progress.done, f"{seconds:.1f}", f"val_{key}", f"{value:.4f}"))
                print("validation", {k: round(v, 3) for k, v in validation.figures.items()}, flush=True)
                file.flush()
            if progress.done % 25 == 0:
                shown = "  ".join(f"{k} {v:.3f}" for k, v in means.items())
                print(f"{progress.done}/{progress.total}  {seconds:.0f} s  {shown}", flush=True)


if __name__ == "__main__":
    main()
