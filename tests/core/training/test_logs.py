from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from napari_samseg.core.errors import (
    MissingDependencyError,
    OutputError,
    UnknownNameError,
)
from napari_samseg.core.images import open_image
from napari_samseg.core.models.checkpoint import digest_tensors, read_checkpoint
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import LoopSettings, TuneSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.logs import LogRow, LogStart, TrainingLog
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.tuning import TuningJob
from napari_samseg.core.types import TrainingProgress

SETTINGS = {"loop": {"steps": 6, "optimizer": "adamw"}}


def row(step: int, **figures: float) -> LogRow:
    return LogRow(step, step / 2, step * 1.5, {"loss": 1 / step, **figures})


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of all event files, read by TensorBoard's own messages."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((folder / "events").glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            for value in event.summary.value:
                values = found.setdefault(value.tag, [])
                values.append((event.step, pytest.approx(value.simple_value)))
    return found


def test_a_table_and_curves(tmp_path: Path) -> None:
    with TrainingLog(LogStart(tmp_path, SETTINGS)) as log:
        for step in (1, 2, 3):
            log.note(row(step, **({"val_box": 0.5} if step == 2 else {})))
    assert [(r["step"], r["name"], r["value"]) for r in lines(tmp_path)] == [
        ("1", "loss", "1"),
        ("2", "loss", "0.5"),
        ("2", "val_box", "0.5"),
        ("3", "loss", "0.333333"),
    ]
    events = read_events(tmp_path)
    assert events["training/loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert events["validation/box"] == [(2, 0.5)]
    # what was made after the state that is resumed is made again
    with TrainingLog(LogStart(tmp_path, SETTINGS, step=2)) as log:
        assert [r.as_dict()["val_box"] for r in log.earlier] == [0.5]
        assert log.seconds == 3
        log.note(row(3, val_box=0.75))
    assert [r["step"] for r in lines(tmp_path)] == ["1", "2", "2", "3", "3"]
    # another training in the same folder begins anew
    with TrainingLog(LogStart(tmp_path, SETTINGS)) as log:
        log.note(row(1))
    assert len(lines(tmp_path)) == 1
    assert read_events(tmp_path) == {"training/loss": [(1, 1.0)]}


class Service(ModuleType):
    """Stands for Weights & Biases, and for MLflow."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.said: list[tuple[str, object]] = []

    def init(self, **options):  # type: ignore[no-untyped-def]
        self.said.append(("init", options))
        run = SimpleNamespace(id=options["id"] or "run-1")
        run.log = lambda values, step: self.said.append(("log", (step, values)))
        run.finish = lambda: self.said.append(("finish", None))
        return run

    def set_experiment(self, name: str) -> None:
        self.said.append(("experiment", name))

    def start_run(self, run_id: str | None, run_name: str) -> SimpleNamespace:
        self.said.append(("start", (run_id, run_name)))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "run-2"))

    def log_params(self, values: dict[str, object]) -> None:
        self.said.append(("params", values))

    def log_metrics(self, values, step, run_id):  # type: ignore[no-untyped-def]
        if "bad" in values:
            raise ConnectionError("no route to host")
        self.said.append(("log", (step, run_id, values)))

    def end_run(self) -> None:
        self.said.append(("finish", None))


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> tuple[Service, Service]:
    made = Service("wandb"), Service("mlflow")
    for module in made:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def test_services_get_the_same_and_go_on_in_their_run(
    tmp_path: Path, services: tuple[Service, Service]
) -> None:
    folder = tmp_path / "nuclei"
    folder.mkdir()
    for start in (0, 1):
        with TrainingLog(LogStart(folder, SETTINGS, start), ("wandb", "mlflow")) as log:
            log.note(row(start + 1))
    wandb, mlflow = services
    first, second = (options for name, options in wandb.said if name == "init")
    assert first["name"] == "nuclei"
    assert first["config"] == {"loop.steps": 6, "loop.optimizer": "adamw"}
    assert (first["id"], second["id"]) == (None, "run-1")
    assert ("log", (2, {"epoch": 1.0, "loss": 0.5})) in wandb.said
    names = [name for name, _ in mlflow.said]
    assert names == [
        "experiment", "start", "params", "log", "finish",
        "experiment", "start", "log", "finish",
    ]  # fmt: skip
    assert [v for n, v in mlflow.said if n == "start"][1] == ("run-2", "nuclei")
    assert wandb.said[-1] == ("finish", None)


def test_a_service_that_fails_does_not_end_a_training(
    tmp_path: Path, services: tuple[Service, Service]
) -> None:
    with TrainingLog(LogStart(tmp_path, SETTINGS), ("mlflow", "wandb")) as log:
        with pytest.warns(UserWarning, match="MlflowLog gets no more.*no route"):
            log.note(row(1, bad=1))
        log.note(row(2))
    assert len([1 for name, _ in services[0].said if name == "log"]) == 2
    assert [r["step"] for r in lines(tmp_path)] == ["1", "1", "2"]


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="pip install 'wandb'"):
        TrainingLog(LogStart(tmp_path, SETTINGS), ("wandb",))
    with pytest.raises(UnknownNameError, match="choose of wandb, mlflow"):
        TrainingLog(LogStart(tmp_path, SETTINGS), ("comet",))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        TrainingLog(LogStart(tmp_path / "taken", SETTINGS))


def test_a_resumed_training_has_its_whole_history(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    image = LabelledImage("a", open_image(picture), labels)
    plan = TuningPlan(
        tune=TuneSettings(objects=4, corrections=0),
        loop=LoopSettings(
            steps=6, warmup_steps=1, validate_every=2, checkpoint_every=2,
            learning_rate=5e-3, ema_decay=0.5,
        ),
    )  # fmt: skip
    whole = run_steps(TuningJob([image], model, tmp_path / "a", plan).run_steps())
    job = TuningJob([image], model, tmp_path / "b", plan)
    steps = job.run_steps()
    for step in steps:
        if isinstance(step, TrainingProgress) and step.done == 3:
            break
    steps.close()
    resumed = run_steps(
        TuningJob([], model, tmp_path / "b", plan).run_steps(resume=True)
    )

    def scores(rows):  # type: ignore[no-untyped-def]
        return [(r["step"], pytest.approx(r["val_box"], rel=1e-5)) for r in rows]

    assert [r["step"] for r in resumed.history] == [2, 4, 6]
    assert scores(resumed.history) == [(r["step"], r["val_box"]) for r in whole.history]
    # scores of the model that it started from, not of what it had learned by then
    assert resumed.before == whole.before
    assert resumed.after is not None
    assert whole.after is not None
    assert resumed.after.score == whole.after.score
    assert len(lines(tmp_path / "a")) == len(lines(tmp_path / "b"))


def test_without_validation_a_new_training_is_not_taken_for_the_old(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    image = LabelledImage("a", open_image(picture), labels)
    kept = []
    for seed in (0, 1):
        plan = TuningPlan(
            tune=TuneSettings(objects=4, corrections=0, validation=0),
            loop=LoopSettings(steps=2, warmup_steps=1, seed=seed),
        )
        job = TuningJob([image], model, tmp_path, plan)
        result = run_steps(job.run_steps(overwrite=True))
        assert result.after is None
        best, last = (read_checkpoint(p).tensors for p in (result.best, result.last))
        kept.append(digest_tensors(best))
        assert kept[-1] == digest_tensors(last)
    assert kept[0] != kept[1]
