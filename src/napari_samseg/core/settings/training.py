"""Settings of training: how it goes, and what is tuned on which prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings.fields import check, setting

__all__ = ["AugmentSettings", "LoopSettings", "LoraSettings", "TuneSettings"]


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long and how fast to train; every field says what it does."""

    steps: int = setting(
        1000, "Steps", "Number of optimiser steps.", minimum=1, maximum=10_000_000
    )
    optimizer: str = setting(
        "adamw", "Optimiser", "adamw or adam.", choices=("adamw", "adam")
    )
    learning_rate: float = setting(
        1e-3, "Learning rate", "Highest rate, after warm-up.", minimum=0.0, maximum=1.0
    )
    schedule: str = setting(
        "cosine",
        "Schedule",
        "After warm-up. cosine: falls to the final rate; plateau: falls to a tenth "
        "each time that four validations in a row were no better; constant.",
        choices=("cosine", "plateau", "constant"),
    )
    final_rate: float = setting(
        0.02,
        "Final rate",
        "Rate at the end of the cosine, as a share of the highest.",
        minimum=0.0,
        maximum=1.0,
    )
    warmup_steps: int = setting(
        100, "Warm-up", "Steps of linear rise of the rate.", minimum=0
    )
    weight_decay: float = setting(
        0.02, "Weight decay", "Decay of weight matrices.", minimum=0.0
    )
    clip_norm: float = setting(
        1.0,
        "Gradient clip",
        "Largest norm of the gradient; 0 is no limit.",
        minimum=0.0,
    )
    accumulate: int = setting(
        1,
        "Accumulation",
        "Batches of which the gradients make one step.",
        minimum=1,
        maximum=10_000,
    )
    ema_decay: float = setting(
        0.998,
        "EMA decay",
        "Decay of the running mean of the weights; 0 keeps the last.",
        minimum=0.0,
        maximum=0.999999,
    )
    mixed_precision: bool = setting(
        False, "Mixed precision", "Half precision where a GPU is fast at it."
    )
    patience: int = setting(
        0,
        "Patience",
        "Stop after so many validations in a row that were no better; 0 goes on to "
        "the end.",
        minimum=0,
        maximum=10_000,
    )
    checkpoint_every: int = setting(
        100, "Checkpoint every", "Steps between states on disk.", minimum=1
    )
    validate_every: int = setting(
        250, "Validate every", "Steps between validations.", minimum=1
    )
    seed: int = setting(
        0, "Seed", "Seed of everything random.", minimum=0, maximum=2**31 - 1
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How images are varied.

    Each variant is another encoding of the image; the two settings of features vary
    embeddings that are there, in each step, and cost no encoding.
    """

    variants: int = setting(
        1,
        "Variants",
        "Encodings of each image: the image itself, and variants of it. Each costs "
        "as much time and room as the first.",
        minimum=1,
        maximum=1000,
    )
    flip: bool = setting(True, "Flips", "Mirrored and turned by right angles.")
    rotation: float = setting(
        0.0,
        "Rotation",
        "Turned by up to so much, either way.",
        minimum=0,
        maximum=180,
        unit="°",
    )
    scale: float = setting(
        0.0,
        "Scale",
        "Larger or smaller by up to this share.",
        minimum=0,
        maximum=0.75,
    )
    elastic: float = setting(
        0.0,
        "Elastic",
        "Smooth displacements of up to about so much.",
        minimum=0,
        maximum=100,
        unit="px",
    )
    contrast: float = setting(
        0.0,
        "Contrast",
        "Contrast and brightness off by up to this share.",
        minimum=0,
        maximum=0.9,
    )
    gamma: float = setting(
        0.0,
        "Gamma",
        "Intensities raised to 2^-g to 2^g.",
        minimum=0,
        maximum=3,
    )
    colour: float = setting(
        0.0,
        "Colour",
        "Stains stronger or weaker: the optical density of each channel is "
        "multiplied by 2^-c to 2^c. Grey images stay as they are.",
        minimum=0,
        maximum=3,
    )
    blur: float = setting(
        0.0,
        "Blur",
        "Gaussian blur of up to this standard deviation.",
        minimum=0,
        maximum=20,
        unit="px",
    )
    noise: float = setting(
        0.0,
        "Noise",
        "Gaussian noise of up to this standard deviation, of 255.",
        minimum=0,
        maximum=128,
    )
    slip: float = setting(
        0.0,
        "Section slip",
        "Part of a section moved sideways by up to so much, as by a knife.",
        minimum=0,
        maximum=100,
        unit="px",
    )
    missing: float = setting(
        0.0,
        "Missing section",
        "Chance of a stripe without data, as by a fold or a crack.",
        minimum=0,
        maximum=1,
    )
    feature_noise: float = setting(
        0.0,
        "Noise on embeddings",
        "In each step, of up to so many standard deviations of each channel. Nothing "
        "is encoded for it.",
        minimum=0,
        maximum=2,
    )
    feature_dropout: float = setting(
        0.0,
        "Channels left out",
        "In each step, this share of an embedding's channels shows its mean alone. "
        "Nothing is encoded for it.",
        minimum=0,
        maximum=0.9,
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def encoded(self) -> AugmentSettings:
        """What embeddings of variants depend on: all but what varies embeddings."""
        return replace(self, feature_noise=0.0, feature_dropout=0.0)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Which layers get adapters, and of which rank."""

    targets: str = setting(
        "auto",
        "Layers",
        "Layers that get adapters, with commas between them; auto: queries, values "
        "and the two layers of each block of an encoder with attention, otherwise its "
        "1 x 1 convolutions and the decoder's queries and values.",
    )
    rank: int = setting(
        4,
        "Rank",
        "Numbers through which an adapter passes what it adds: more can learn more, "
        "and forget more.",
        minimum=1,
        maximum=256,
    )
    alpha: float = setting(
        4.0,
        "Alpha",
        "What an adapter adds is multiplied by alpha / rank.",
        minimum=1e-3,
        maximum=1e4,
    )
    dropout: float = setting(
        0.0,
        "Dropout",
        "Share of the inputs of adapters that is left out at random in training.",
        minimum=0,
        maximum=0.95,
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.target_names:
            raise SettingsError('name at least one layer of LoRA, or "auto"')

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names in `targets`, each once."""
        names = (name.strip() for name in self.targets.split(","))
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """What is tuned, on which prompts, by which loss."""

    train: str = setting(
        "decoder",
        "Train",
        "decoder: the mask decoder, on embeddings made once; decoder+prompts: the "
        "prompt encoder, too; lora: small matrices beside the weights; lora+decoder: "
        "these, and decoder and prompt encoder; everything: all weights. The last "
        "three encode at every step.",
        choices=("decoder", "decoder+prompts", "lora", "lora+decoder", "everything"),
    )
    loss: str = setting(
        "dice + bce",
        "Loss",
        "Sum of losses with weights, such as dice + 20*focal. Those on the form of a "
        "mask (topology, cldice) judge all of it, the others the window.",
    )
    iou_weight: float = setting(
        1.0,
        "IoU weight",
        "Weight of the squared error of the predicted IoU, in the loss.",
        minimum=0,
        maximum=1000,
    )
    box: float = setting(
        1.0, "Boxes", "Share of objects that are prompted by a box.", minimum=0
    )
    point: float = setting(
        1.0, "Points", "Share of objects that are prompted by one point.", minimum=0
    )
    box_and_point: float = setting(
        0.0,
        "Box and point",
        "Share of objects that are prompted by a box and a point in one.",
        minimum=0,
    )
    box_kind: str = setting(
        "relative-box",
        "Kind of box",
        "How boxes are off; as for prompts from labels.",
        choices=("box", "jittered-box", "gaussian-box", "relative-box"),
    )
    jitter: int = setting(
        10,
        "Jitter",
        "How far each side of a jittered box is off at most.",
        minimum=0,
        maximum=10000,
        unit="px",
    )
    point_kind: str = setting(
        "random",
        "Kind of point",
        "Where points lie; as for prompts from labels.",
        choices=("random", "centroid", "interior", "grid"),
    )
    corrections: int = setting(
        1,
        "Corrections",
        "Clicks on what was wrong, one after the other, after the first prompt.",
        minimum=0,
        maximum=16,
    )
    previous: float = setting(
        0.5,
        "Previous mask",
        "Share of corrections that come with the mask before them, as a prompt.",
        minimum=0,
        maximum=1,
    )
    objects: int = setting(
        8, "Objects", "Objects in a batch, all of one image.", minimum=1, maximum=1024
    )
    balance: str = setting(
        "objects",
        "Balance",
        "What is trained on equally often: every object, every image whatever its "
        "number of objects, or, where labels are classes, every class whatever its "
        "number of objects. Rare ones then come up several times, with other prompts.",
        choices=("objects", "images", "classes"),
    )
    epochs: int = setting(
        0,
        "Epochs",
        "Passes over all objects, in place of a number of steps; 0 counts steps.",
        minimum=0,
        maximum=100_000,
    )
    surroundings: float = setting(
        0.75,
        "Surroundings",
        "Share of batches that are decoded in the surroundings of each object "
        "instead of the whole plane, which is several times faster. With losses on "
        "the form of a mask, none are.",
        minimum=0,
        maximum=1,
    )
    window: str = setting(
        "object",
        "Window",
        "What the loss looks at. object: the surroundings of each object, finely; "
        "plane: the whole image, coarsely.",
        choices=("object", "plane"),
    )
    samples: int = setting(
        48,
        "Samples",
        "Cells of the window along each side.",
        minimum=8,
        maximum=512,
    )
    validation: float = setting(
        0.2,
        "Validation",
        "Share of images (or animals, volumes, blocks of planes) that the model is "
        "scored on and never sees.",
        minimum=0.0,
        maximum=0.9,
    )
    held_out: str = setting(
        "",
        "Validate on",
        "Groups (patients, animals, images) to validate on, with commas between them; "
        "chosen at random, about the share above, if empty.",
    )
    min_area: int = setting(
        30,
        "Smallest object",
        "Smaller objects are left out.",
        minimum=1,
        maximum=2**31 - 1,
        unit="px",
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.box + self.point + self.box_and_point:
            raise SettingsError("choose boxes or points: now there is no prompt")

    @property
    def scored_kinds(self) -> tuple[str, ...]:
        """Kinds of prompt that the model is scored by: those that it is trained on.

        A box with a point counts for both, as each of them is asked alone.
        """
        kinds = {"box": self.box, "point": self.point}
        return tuple(k for k, share in kinds.items() if share or self.box_and_point)

    @property
    def needs_pixels(self) -> bool:
        """Whether the encoder learns, so that embeddings are of no use."""
        return self.train in ("lora", "lora+decoder", "everything")
