"""The recipe of the embedded model, end to end on drawn images and a small shape."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.io import imread
from small_models import small_config

from napari_samseg.core.metrics.prompting import PromptScores, draw_prompts
from napari_samseg.core.models import load_model
from napari_samseg.core.models.mobile_sam import build_mobile_sam
from napari_samseg.core.models.tiny import build_tiny, fold_batch_norm
from napari_samseg.core.predict import Predictor
from napari_samseg.core.settings import LoopSettings, TileSettings
from napari_samseg.core.training.loop import TrainingLoop
from napari_samseg.core.types import MaskPrediction, TrainingProgress

RECIPE = Path(__file__).parents[2] / "recipes" / "embedded_model"
CONFIG = small_config(input_size=512)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a file of the recipe; they import each other by their names alone."""
    monkeypatch.syspath_prepend(str(RECIPE))
    names = {path.stem for path in RECIPE.glob("*.py")}
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]


@pytest.mark.parametrize("seed", range(8))
def test_a_drawn_image_follows_from_its_seed(
    recipe: Callable[[str], ModuleType], seed: int
) -> None:
    generate = recipe("generate").generate_image
    image, labels, kind = generate(seed, 96)
    again, _, _ = generate(seed, 96)
    np.testing.assert_array_equal(image, again)
    assert image.shape[:2] == (96, 96)
    assert image.std() > 1
    assert len(labels) == (2 if kind == "rings" else 1)
    for one in labels:
        assert one.shape == (96, 96)
        assert one.dtype == np.uint16
        # of fluid there may be a single pocket
        assert len(np.unique(one)) > (1 if kind == "fluid" else 2)
    if kind == "rings":
        inner, whole = labels
        np.testing.assert_array_equal(whole[inner > 0], inner[inner > 0])


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_a_drawn_image_has_the_bits_asked_for(
    recipe: Callable[[str], ModuleType], bits: int, dtype: type
) -> None:
    generate = recipe("generate").generate_image
    images = [generate(seed, 64, bits=bits)[0] for seed in range(8)]
    assert all(image.dtype == dtype for image in images)
    if bits == 16:
        assert max(image.max() for image in images) > 4000


def test_harder_images_show_the_same_objects_with_less_contrast(
    recipe: Callable[[str], ModuleType],
) -> None:
    generate = recipe("generate")
    for kind in generate.SCENES:
        spans: dict[float, list[float]] = {0.1: [], 0.9: []}
        drawn = []
        for seed in range(6):
            for difficulty, found in spans.items():
                image, labels, _ = generate.generate_image(
                    seed, 96, kind=kind, difficulty=difficulty, bits=8
                )
                grey = image if image.ndim == 2 else image.mean(axis=2)
                # without the noise, which is contrast of no use
                smooth = ndimage.gaussian_filter(grey.astype(float), 1.5)
                found.append(float(np.ptp(np.percentile(smooth, [5, 95]))))
                drawn.append(labels[-1])
            np.testing.assert_array_equal(drawn[-1], drawn[-2])
        assert np.mean(spans[0.9]) < 0.7 * np.mean(spans[0.1]), kind


def test_pack_comes_back(recipe: Callable[[str], ModuleType], tmp_path: Path) -> None:
    pack = recipe("pack")
    images = list(pack.read_generated(3, 64))
    assert [i.split for i in images] == ["train"] * 3 + ["val"] * 16
    pack.write_pack(tmp_path / "pack.npz", iter(images))
    for one, other in zip(pack.read_pack(tmp_path / "pack.npz"), images, strict=True):
        assert (one.name, one.source, one.split) == (
            other.name,
            other.source,
            other.split,
        )
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.labels[-1], other.labels[-1])


@pytest.mark.parametrize("canvas", [96, 512])
def test_crops_and_their_prompts_agree(
    recipe: Callable[[str], ModuleType], canvas: int
) -> None:
    pack, crops = recipe("pack"), recipe("crops")
    images = list(pack.read_generated(8, 128))
    source = crops.CropSource(images, seed=1, canvas=canvas)
    plan = crops.CropPlan(96, 4, 6)
    kinds = set()
    for step in range(6):
        batch, again = source.batch_at(step, plan), source.batch_at(step, plan)
        assert torch.equal(batch.pixels, again.pixels)
        assert batch.pixels.shape == (4, 3, 96, 96)
        assert batch.seed == again.seed
        for group, same in zip(batch.groups, again.groups, strict=True):
            kinds.add(group.kind)
            assert torch.equal(group.targets.masks, same.targets.masks)
            assert torch.equal(group.prompts.points_xy, same.prompts.points_xy)
            assert set(group.crops.tolist()) <= set(range(4))
            # where the canvas is full, objects of one image are decoded together
            assert canvas > 96 or len(set(group.crops.tolist())) == 1
            windows = group.targets.windows_xyxy * canvas
            low = torch.tensor(batch.offset_yx[::-1])
            assert (windows[:, :2] >= low - 1e-3).all()
            assert (windows[:, 2:] <= low + 96 + 1e-3).all()
            for i in range(len(group.crops)):
                _check_prompt(group, i, windows[i].numpy())
    assert kinds == {"box", "point"}


def test_prompts_on_nothing_lie_off_all_objects(
    recipe: Callable[[str], ModuleType],
) -> None:
    pack, crops = recipe("pack"), recipe("crops")
    source = crops.CropSource(list(pack.read_generated(8, 128)), seed=1, canvas=512)
    plan = crops.CropPlan(96, 4, 6)
    drawn = []
    plain = source._crop
    source._crop = lambda rng, plan: drawn.append(plain(rng, plan)) or drawn[-1]
    kinds = set()
    for step in range(12):
        drawn.clear()
        batch = source.batch_at(step, plan)
        for group in batch.nothing:
            at, boxes = group.prompts.points_xy[:, 0:1], group.prompts.boxes_xyxy
            kinds.add("point" if boxes is None else "box")
            corners = at if boxes is None else boxes.reshape(-1, 2, 2)
            low = torch.tensor(batch.offset_yx[::-1])
            for crop, where in zip(group.crops.tolist(), corners - low, strict=True):
                inner = drawn[-4:][crop]
                if not (inner.pixels == batch.pixels[crop]).all():
                    continue  # blank
                assert inner.is_wholly_labelled
                (x0, y0), (x1, y1) = (2 * where[[0, -1]] + 1).int().numpy()
                assert not inner.labels[y0 : y1 + 1, x0 : x1 + 1].any()
    assert kinds == {"point", "box"}
    # where fibres are nested in their sheaths, axons alone do not tell
    rings = [i for i in pack.read_generated(8, 128) if len(i.labels) == 2]
    source = crops.CropSource(rings, seed=1, canvas=512)
    rng = np.random.default_rng(0)
    found = [source._crop(rng, plan) for _ in range(30)]
    assert {c.is_wholly_labelled for c in found} == {True, False}
    # an MRI has organs beside its lesions
    lesions = dataclasses.replace(rings[0], source="mri_lesions")
    lesions = dataclasses.replace(lesions, labels=lesions.labels[:1])
    source = crops.CropSource([lesions], seed=1, canvas=512)
    assert not source._crop(rng, plan).is_wholly_labelled


def test_blank_crops_show_nothing_to_be_found(
    recipe: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, crops = recipe("pack"), recipe("crops")
    source = crops.CropSource(list(pack.read_generated(8, 128)), seed=1, canvas=512)
    rng = np.random.default_rng(0)
    plan = crops.CropPlan(96, 4, 6)
    crop = source._crop(rng, plan)
    crop = dataclasses.replace(crop, areas=np.array([0, 900], np.float32))
    kinds = []
    for _ in range(20):
        blank = crops._blank(rng, crop)
        assert blank.pixels.shape == crop.pixels.shape
        assert blank.is_wholly_labelled
        assert not blank.labels.any()
        assert not torch.equal(blank.pixels, crop.pixels)
        assert 0 <= float(blank.pixels.min()) <= float(blank.pixels.max()) <= 255
        kinds.append(_kind_of_blank(blank.pixels, crop.pixels))
    assert set(kinds) == {"disorder", "noise", "grey"}
    # in disorder, a nucleus as small as a piece would still be one
    small = dataclasses.replace(crop, areas=np.array([0, 900, 40], np.float32))
    blanks = [crops._blank(rng, small) for _ in range(20)]
    found = {_kind_of_blank(blank.pixels, crop.pixels) for blank in blanks}
    assert found == {"noise", "grey"}
    # a batch of blank crops alone is drawn again
    monkeypatch.setattr(crops, "BLANK_SHARE", 0.9)
    assert source.batch_at(0, plan).groups


def _kind_of_blank(blank: torch.Tensor, pixels: torch.Tensor) -> str:
    if blank.std() == 0:
        return "grey"
    same = torch.equal(blank.flatten().sort()[0], pixels.flatten().sort()[0])
    return "disorder" if same else "noise"


def test_crops_without_objects_are_passed_over(
    recipe: Callable[[str], ModuleType],
) -> None:
    pack, crops = recipe("pack"), recipe("crops")
    (image, *_) = pack.read_generated(8, 128)
    source = crops.CropSource([image], seed=1, canvas=96)
    plan = crops.CropPlan(96, 2, 6)
    shown, empty = source._crop(np.random.default_rng(0), plan), None
    empty = dataclasses.replace(shown, labels=np.zeros_like(shown.labels))
    order: list[Any] = []
    source._crop = lambda rng, plan: order.pop(0)
    # one shows none, then both do, and another batch is drawn
    order[:] = [empty, shown]
    assert {int(g.crops[0]) for g in source.batch_at(0, plan).groups} == {1}
    order[:] = [empty, empty, shown, shown]
    assert {int(g.crops[0]) for g in source.batch_at(0, plan).groups} == {0, 1}
    assert not order


def _check_prompt(group: Any, i: int, window: np.ndarray) -> None:
    """The prompt of an object lies where its target says that the object is."""
    is_object = group.targets.is_object[i].numpy()
    side = (window[2:] - window[:2]) / 48
    if group.kind == "point":
        x, y = group.prompts.points_xy[i, 0].numpy()
        column, row = ((np.array([x, y]) - window[:2]) / side).astype(int)
        # a point stands for a pixel of the image, which may be some cells wide
        reach = 8
        near = is_object[
            max(row - reach, 0) : row + reach + 1,
            max(column - reach, 0) : column + reach + 1,
        ]
        assert near.any()
        return
    rows, columns = (np.flatnonzero(is_object.any(axis=a)) for a in (1, 0))
    tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    tight = tight * np.tile(side, 2) + np.tile(window[:2], 2)
    length = (tight[2:] - tight[:2]).max()
    box = group.prompts.boxes_xyxy[i].numpy()
    # a tenth off, and the last pixel counts to its beginning
    assert np.abs(box[:2] - tight[:2]).max() < 0.2 * length + 8
    assert np.abs(box[2:] - tight[2:]).max() < 0.2 * length + 8


def test_dense_targets_point_at_the_centre(
    recipe: Callable[[str], ModuleType],
) -> None:
    labels = torch.zeros(2, 12, 12, dtype=torch.int64)
    labels[0, 2:7, 3:8] = 4
    labels[1, 6:9, 6:9] = 4
    inside, boundary, dy, dx = recipe("objective").dense_targets(labels).unbind(1)
    assert torch.equal(inside, (labels > 0).float())
    assert boundary[0, 4, 5] == 0
    assert boundary[0, 2, 3] == boundary[0, 1, 5] == 1
    # a square of 25 pixels, whose unit is 5
    assert dy[0, 2, 5].item() == pytest.approx(2 / 5)
    assert dx[0, 4, 7].item() == pytest.approx(-2 / 5)
    assert dy[1, 7, 7] == dx[1, 7, 7] == 0
    assert dy[0, 0, 0] == 0


def test_trained_exported_and_loaded(
    recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    pack, crops = recipe("pack"), recipe("crops")
    objective, export = recipe("objective"), recipe("export")
    source = crops.CropSource(list(pack.read_generated(8, 128)), seed=0)
    steps = 30
    settings = LoopSettings(
        steps=steps, learning_rate=4e-3, warmup_steps=3, ema_decay=0.5
    )
    torch.manual_seed(0)
    module = objective.TrainedModel(
        build_tiny(dataclasses.replace(CONFIG, batch_norm=True))
    )
    loop = TrainingLoop(
        module,
        lambda step: source.batch_at(step, crops.CropPlan(64, 4, 3)),
        objective.Objective.of(module, steps),
        settings,
    )
    figures: dict[str, list[float]] = {}
    for progress in loop.run():
        if not isinstance(progress, TrainingProgress):
            continue
        for name, value in loop.figures.items():
            figures.setdefault(name, []).append(value)
    assert {"dense", "box", "point", "corrected", "nothing"} == set(figures)
    assert np.mean(figures["dense"][-5:]) < 0.9 * np.mean(figures["dense"][:3])

    out = tmp_path / "model.safetensors"
    with loop.averaged.in_module():
        assert export.write_weights(module.sam, out, steps) == out.stat().st_size
        trained = fold_batch_norm(module.sam)
    model = load_model(out, device="cpu", precision="exact")
    assert model.family == "tiny"
    assert model.embedding_shape == (32, 64, 64)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = trained.image_encoder(image)
        found = model.sam.image_encoder(image)
    # half precision on disk
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.fixture
def begun(recipe: Callable[[str], ModuleType], tmp_path: Path) -> list[str]:
    """Return arguments of a short training that starts from a small model."""
    pack, export = recipe("pack"), recipe("export")
    images = list(pack.read_generated(8, 96))[:10]  # two are for validation
    pack.write_pack(tmp_path / "pack.npz", iter(images))
    torch.manual_seed(3)
    small = build_tiny(dataclasses.replace(CONFIG, input_size=192))
    export.write_weights(small, tmp_path / "small.safetensors", 0)
    return [
        *("--pack", str(tmp_path / "pack.npz")),
        *("--init", str(tmp_path / "small.safetensors")),
        *("--steps", "4", "--validate-every", "2", "--val-objects", "1"),
        *("--learning-rate", "1e-3", "--device", "cpu"),
    ]


def test_a_training_that_was_stopped_is_the_one_that_was_not(
    recipe: Callable[[str], ModuleType], begun: list[str], tmp_path: Path
) -> None:
    train = recipe("train")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main([*begun, "--out", str(whole)])
    # a limit of no time: it stops after each step
    train.main([*begun, "--out", str(parts), "--minutes", "1e-9"])
    state = torch.load(parts / "state.pt", weights_only=True)
    assert state["step"] == 1
    train.main([*begun, "--out", str(parts), "--minutes", "1e-9", "--resume"])
    train.main([*begun, "--out", str(parts), "--resume"])

    rows = [_read_curve(folder / "log.csv") for folder in (whole, parts)]
    assert rows[0] == rows[1]
    steps = {step for step, _, _ in rows[0]}
    assert steps == {"1", "2", "3", "4"}
    assert {"loss", "rate", "val_generated_point"} <= {name for _, name, _ in rows[0]}
    ends = [
        torch.load(folder / "state.pt", weights_only=True) for folder in (whole, parts)
    ]
    for name, tensor in ends[0]["averaged"].items():
        torch.testing.assert_close(ends[1]["averaged"][name], tensor, rtol=0, atol=0)
    assert ends[0]["scores"] == ends[1]["scores"]


def test_a_training_that_is_told_to_end_writes_its_state(
    recipe: Callable[[str], ModuleType],
    begun: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = recipe("train")
    before = signal.getsignal(signal.SIGTERM)

    class Ending(train.Validation):
        """The training is told to end while it validates, after its second step."""

        def __call__(self, module: torch.nn.Module) -> Any:
            if signal.getsignal(signal.SIGTERM) is not before:
                signal.raise_signal(signal.SIGTERM)
            return super().__call__(module)

    monkeypatch.setattr(train, "Validation", Ending)
    train.main([*begun, "--out", str(tmp_path / "run")])
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_training_is_not_written_over(
    recipe: Callable[[str], ModuleType], begun: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "best.safetensors").write_bytes(b"made before")
    with pytest.raises(SystemExit, match=r"holds best\.safetensors of another"):
        recipe("train").main([*begun, "--out", str(out)])
    assert (out / "best.safetensors").read_bytes() == b"made before"


def test_a_pack_of_other_drawings_is_refused(
    recipe: Callable[[str], ModuleType], begun: list[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="has 8 drawn images, not 9"):
        recipe("pack").open_pack(Path(begun[1]), tmp_path, 9)
    assert len(recipe("pack").open_pack(Path(begun[1]), tmp_path, 8)) == 10


def test_a_set_that_is_not_there_is_told(
    recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="see --data"):
        next(recipe("pack").read_axon_sem(tmp_path, ("train",)))


def test_what_knows_objects_sees_dense_targets_at_first_alone(
    recipe: Callable[[str], ModuleType],
) -> None:
    is_dense, plan_at = recipe("objective").is_dense, recipe("train").plan_at
    steps = range(1000)
    dense = {k: [is_dense(s, 1000, knows=k) for s in steps] for k in (False, True)}
    assert dense[True] == [s < 60 for s in steps]
    assert all(dense[False][:60])
    assert 0.55 < np.mean(dense[False][60:600]) < 0.75
    assert not any(dense[False][600:])
    for knows, shares in ((False, (0.07, 0.5)), (True, (0.4, 0.5))):
        sizes = np.array([plan_at(s, 1000, 0, knows=knows).size for s in steps])
        assert (sizes[np.array(dense[knows])] == 160).all()
        early, late = (sizes[60:600] == 512).mean(), (sizes[600:] == 512).mean()
        assert (early, late) == pytest.approx(shares, abs=0.08)


def test_steps_made_again_after_a_crash_stand_once_in_the_curve(
    recipe: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    train, log = recipe("train"), tmp_path / "log.csv"
    with closing(train.Curve(log, 0)) as curve:
        for step in (1, 2, 3):
            curve.write(step, {"loss": step / 10})
    # the state that was written last is that of step 1
    with closing(train.Curve(log, 1)) as curve:
        curve.write(2, {"loss": 0.7})
    assert _read_curve(log) == [("1", "loss", "0.1000"), ("2", "loss", "0.7000")]
    # the last line was cut off when there was no room left
    log.write_text(log.read_text().rsplit(",", 2)[0])
    with closing(train.Curve(log, 2)):
        pass
    assert _read_curve(log) == [("1", "loss", "0.1000")]
    with closing(train.Curve(log, 0)):
        pass
    assert _read_curve(log) == []


def _read_curve(path: Path) -> list[tuple[str, str, str]]:
    with path.open(newline="") as file:
        return [
            (row["step"], row["name"], row["value"]) for row in csv.DictReader(file)
        ]


def test_the_best_weights_of_a_training_are_kept(
    recipe: Callable[[str], ModuleType], begun: list[str], tmp_path: Path
) -> None:
    train = recipe("train")
    out = tmp_path / "run"
    train.main([*begun, "--out", str(out)])
    scores = torch.load(out / "state.pt", weights_only=True)["scores"]
    best = out / "best.safetensors"
    # only weights better than the first ones are worth keeping
    assert best.exists() == (scores["best"] > scores["start"])
    assert scores["start"] > -1
    if best.exists():
        assert load_model(best, device="cpu").embedding_shape == (32, 24, 24)


def test_a_training_begins_with_a_model_of_the_family_only(
    recipe: Callable[[str], ModuleType],
    begun: list[str],
    tmp_path: Path,
) -> None:
    other = tmp_path / "mobile_sam.pt"
    torch.save(build_mobile_sam().state_dict(), other)
    with pytest.raises(SystemExit, match="of family mobile_sam: take a tiny one"):
        recipe("train").main([*begun, "--init", str(other)])


def test_designs_are_compared_on_the_same_batches(
    recipe: Callable[[str], ModuleType],
    begun: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    compare = recipe("compare_encoders")
    options = ["--pack", begun[1], "--encoders", "residual", "separable"]
    options += ["--input-sizes", "192", "--steps", "1", "--val-objects", "1"]
    compare.main([*options, "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines
    ]
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["encoder"] for row in table] == ["residual", "separable"]
    residual, separable = table
    # half precision: two bytes each
    size, count = (float(residual[k]) for k in ("float16 MB", "million parameters"))
    assert size == pytest.approx(2 * count, rel=0.03)
    assert float(separable["million parameters"]) < count
    for row in table:
        assert float(row["encode CPU ms"]) > 0
        assert 0 <= float(row["3 corrections"]) <= 1


def test_a_click_goes_deep_into_the_largest_error(
    recipe: Callable[[str], ModuleType],
) -> None:
    true = np.zeros((20, 30), bool)
    mask = true.copy()
    true[2:11, 2:11] = True  # all missing, 81 pixels
    mask[12:14, :28] = True  # too much, 56 pixels
    assert recipe("scoring").deepest_error(mask, true) == (6, 6)
    mask[2:11, 2:11] = True
    y, x = recipe("scoring").deepest_error(mask, true)
    assert y in (12, 13)
    assert mask[y, x]


def test_corrections_improve_a_mask_until_nothing_is_wrong(
    recipe: Callable[[str], ModuleType], shared_data: Path
) -> None:
    scoring, test_sets = recipe("scoring"), recipe("test_sets")
    _, plane, labels = next(iter(test_sets.TEST_SETS["laptrack"].read(shared_data)))
    found = scoring.score_plane(
        Predictor(load_model("default")),
        plane,
        labels,
        0,
        max_objects=6,
        tiles=TileSettings("whole"),
        clicks=(1, 3),
    )
    assert found.clicks.shape == (6, 2)
    assert found.clicks[:, 1].mean() >= found.prompts.point.mean() - 0.02
    # a mask without error is asked for no more: its prompts stay as they are
    objects, _, points = draw_prompts(labels, (0, 0), 6)
    true = MaskPrediction(
        objects.object_ids,
        tuple(
            labels[y0:y1, x0:x1] == i
            for i, (y0, x0, y1, x1) in zip(
                objects.object_ids, objects.boxes_yx, strict=True
            )
        ),
        objects.boxes_yx,
        labels.shape,
        np.ones(6, np.float32),
        np.zeros((6, 4, 4), np.float32),
    )
    after = scoring.add_clicks(points, true, objects)
    np.testing.assert_array_equal(after.n_points, points.n_points)


@pytest.fixture
def evaluate_model(
    recipe: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """Import the recipe that lies one folder above."""
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    yield recipe("evaluate_model")
    del sys.modules["evaluate_model"]


def test_a_model_is_scored_on_sets_it_knows_and_others(
    evaluate_model: ModuleType,
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--data", str(shared_data), "--sets", "laptrack", "mri"]
    options += ["--max-images", "1", "--max-objects", "3", "--clicks", "1"]
    evaluate_model.main([*options, "--pictures", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "## default" in printed
    tables = _read_tables(printed)
    assert [next(iter(table[0])) for table in tables] == [
        "set",
        "size (kinds trained on, other images)",
        "size (kinds never trained on)",
    ]
    # what it was trained on comes first, whatever the order on the command line
    lesions, nuclei = tables[0]
    assert "lesions" in lesions["set"]
    assert nuclei["set"] == "track_laptrack: nuclei (kind never trained on)"
    assert nuclei["objects"] == "3"
    for row in (lesions, nuclei):
        for name in ("box", "ellipse", "point", "Otsu + watershed", "+ 1 click"):
            assert 0 <= float(row[name]) <= 1
    everything = tables[2][-1]
    assert everything.pop("size (kinds never trained on)") == "all"
    assert everything.items() <= nuclei.items()
    assert sum(int(row["objects"]) for row in tables[2][:-1]) == 3
    for key in ("laptrack", "mri"):
        picture = imread(tmp_path / f"default-{key}.png")
        # boxes above points; best, median, worst
        assert picture.shape == (2 * 180, 3 * 180, 3)
        # the outline of the true mask is there
        assert (picture == (40, 200, 60)).all(axis=2).any()


def _read_tables(text: str) -> list[list[dict[str, str]]]:
    """Read Markdown tables as rows by column."""
    tables = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
            tables.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return tables


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--clicks", "0"], "counts from 1, got 0"),
        (
            ["--pictures", "sheets", "vit_b", "vit_b"],
            "vit_b, vit_b would have",
        ),
    ],
)
def test_what_would_be_scored_wrongly_is_refused(
    evaluate_model: ModuleType,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    wrong: str,
) -> None:
    with pytest.raises(SystemExit):
        evaluate_model.main(options)
    assert wrong in capsys.readouterr().err


def test_pictures_of_two_trainings_have_two_names(
    evaluate_model: ModuleType, tmp_path: Path
) -> None:
    files = [tmp_path / run / "best.safetensors" for run in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.touch()
    names = [evaluate_model.short_name(str(file)) for file in files]
    assert names == ["one-best", "two-best"]
    assert evaluate_model.short_name("default") == "default"


def test_how_wrong_a_predicted_iou_is_has_a_sign(
    recipe: Callable[[str], ModuleType], evaluate_model: ModuleType
) -> None:
    actual = np.array([0.5, 0.9])
    prompts = PromptScores(
        np.array([1, 2]),
        np.array([100, 400]),
        box=actual,
        point=actual,
        box_predicted=actual + 0.1,
        point_predicted=actual - 0.3,
        ellipse=actual,
        watershed=actual,
    )
    scores = recipe("scoring").ClickScores(
        prompts, np.zeros((2, 0)), np.array([10.0, 40.0]), np.zeros(2, np.int64)
    )
    cells = evaluate_model.table_row("some", scores).strip("| ").split(" | ")
    assert cells == [*("some", "2"), *4 * ["0.700"], "0.200", "-0.100"]
    titles = [row.split(" | ")[0] for row in evaluate_model.size_rows(scores)]
    assert titles == ["| 8 to 16 px", "| 32 to 64 px"]
