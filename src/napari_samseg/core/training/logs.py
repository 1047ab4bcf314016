"""Where the figures of a training go: a table, TensorBoard, and services on request."""

from __future__ import annotations

import csv
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from napari_samseg.core.errors import (
    MissingDependencyError,
    OutputError,
    UnknownNameError,
)
from napari_samseg.core.optional import import_optional
from napari_samseg.core.training.writing import replacing, telling_what_failed

__all__ = [
    "LOGGERS",
    "LogRow",
    "LogStart",
    "RunLog",
    "TrainingLog",
    "check_loggers",
    "load_loggers",
    "read_log",
    "used_loggers",
]

LOG, EVENTS = "log.csv", "events"
PROJECT = "napari-samseg"
COLUMNS = ("step", "epoch", "seconds", "name", "value")
VALIDATED = "val_"


@dataclass(frozen=True, slots=True)
class LogRow:
    """The figures of a step.

    Attributes
    ----------
    step : int
    epoch, seconds : float
        Passes over the data and time since the training began.
    figures : mapping of name to float
        ``loss``, ``rate``, and others; those of a validation begin with ``val_``.
    """

    step: int
    epoch: float
    seconds: float
    figures: Mapping[str, float]

    @property
    def is_validation(self) -> bool:
        """Whether the model was scored at this step."""
        return any(name.startswith(VALIDATED) for name in self.figures)

    def as_dict(self) -> dict[str, float]:
        """Return all of it as one mapping."""
        head = {"step": self.step, "epoch": self.epoch, "seconds": self.seconds}
        return {**head, **self.figures}


class RunLog(Protocol):
    """Something that figures are written to."""

    def note(self, row: LogRow) -> None:
        """Take in the figures of a step."""

    def close(self) -> None:
        """Write what is left."""


@dataclass(frozen=True, slots=True)
class LogStart:
    """What a log is told at its start.

    Attributes
    ----------
    folder : Path
        Of the training; its name is that of the run.
    settings : mapping of str to mapping
        Parts of the settings, and their values.
    step : int
        Rows after this one are of a run that went further than its last state: they
        are made again. 0 starts anew.
    """

    folder: Path
    settings: Mapping[str, Mapping[str, Any]]
    step: int = 0

    def read_run(self, service: str) -> str | None:
        """Return the run of a service that a resumed training goes on in."""
        path = self.folder / EVENTS / f"{service}.run"
        is_there = self.step and path.is_file()
        return path.read_text(encoding="utf-8") if is_there else None

    def keep_run(self, service: str, run: str) -> None:
        """Keep what `read_run` returns."""
        with replacing(self.folder / EVENTS / f"{service}.run") as unfinished:
            unfinished.write_text(run, encoding="utf-8")

    @property
    def flat_settings(self) -> dict[str, Any]:
        """Settings by ``part.name``."""
        return {
            f"{part}.{name}": value
            for part, values in self.settings.items()
            for name, value in values.items()
        }


class CsvLog:
    """A table with a line for each figure: ``log.csv``."""

    def __init__(self, start: LogStart) -> None:
        path = start.folder / LOG
        self.rows = read_log(start.folder, start.step) if start.step else []
        # written anew: lines beyond the state that is resumed would be there twice; and
        # beside, as a full disk is no reason to lose the curve of a run
        with (
            replacing(path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for row in self.rows:
                table.writerows(_lines(row))
        self._path = path
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def note(self, row: LogRow) -> None:
        """Write the lines of a step."""
        with telling_what_failed(self._path):
            self._writer.writerows(_lines(row))
            if row.is_validation:
                self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLog:
    """Events for TensorBoard, in the folder ``events``."""

    def __init__(self, start: LogStart) -> None:
        from tensorboardX import SummaryWriter

        folder = start.folder / EVENTS
        if not start.step:  # curves of another training
            shutil.rmtree(folder, ignore_errors=True)
        purged = start.step + 1 if start.step else None
        self._writer = SummaryWriter(str(folder), purge_step=purged)

    def note(self, row: LogRow) -> None:
        """Write the scalars of a step."""
        for name, value in row.figures.items():
            group = "validation" if name.startswith(VALIDATED) else "training"
            tag = f"{group}/{name.removeprefix(VALIDATED)}"
            self._writer.add_scalar(tag, value, row.step)
        if row.is_validation:
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases; its own environment variables say where it goes."""

    def __init__(self, start: LogStart) -> None:
        wandb: Any = _library("wandb")
        self._run = wandb.init(
            project=PROJECT,
            name=start.folder.name,
            dir=str(start.folder),
            config=start.flat_settings,
            id=start.read_run("wandb"),
            resume="allow",
        )
        start.keep_run("wandb", self._run.id)

    def note(self, row: LogRow) -> None:
        """Hand over the figures of a step."""
        self._run.log({"epoch": row.epoch, **row.figures}, step=row.step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MlflowLog:
    """A run of MLflow; its own environment variables say where it goes."""

    def __init__(self, start: LogStart) -> None:
        self._mlflow: Any = _library("mlflow")
        self._mlflow.set_experiment(PROJECT)
        known = start.read_run("mlflow")
        run = self._mlflow.start_run(run_id=known, run_name=start.folder.name)
        self._run_id: str = run.info.run_id
        start.keep_run("mlflow", self._run_id)
        if known is None:  # MLflow takes parameters once
            self._mlflow.log_params(start.flat_settings)

    def note(self, row: LogRow) -> None:
        """Hand over the figures of a step."""
        self._mlflow.log_metrics(
            {"epoch": row.epoch, **row.figures},
            step=row.step,
            run_id=self._run_id,
        )

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


# On request, beside the table and TensorBoard.
LOGGERS: Mapping[str, Callable[[LogStart], RunLog]] = MappingProxyType(
    {"wandb": WandbLog, "mlflow": MlflowLog}
)


def check_loggers(names: Sequence[str]) -> None:
    """Raise `UnknownNameError` unless all of them are in `LOGGERS`."""
    for name in names:
        if name not in LOGGERS:
            raise UnknownNameError(
                f"there is no logger {name!r}: choose of {', '.join(LOGGERS)}; a table "
                "and events for TensorBoard are always written"
            )


def load_loggers(names: Sequence[str]) -> None:
    """Raise `MissingDependencyError` unless the libraries of loggers are there.

    Also what `check_loggers` raises: to be told before hours of encoding.
    """
    check_loggers(names)
    for name in names:
        _library(name)


def used_loggers(folder: Path) -> tuple[str, ...]:
    """Return the names of the `LOGGERS` that a training in a folder has a run of."""
    return tuple(n for n in LOGGERS if (folder / EVENTS / f"{n}.run").is_file())


class TrainingLog:
    """All logs of a training; a context manager.

    Parameters
    ----------
    start : LogStart
    loggers : sequence of str
        Names of `LOGGERS`.

    Attributes
    ----------
    earlier : list of LogRow
        Rows with a validation of before a resumed training was stopped.
    seconds : float
        Time that was trained before it was stopped.

    Raises
    ------
    MissingDependencyError
        If the library of a logger is not installed.
    OutputError
        If the folder cannot be written.
    """

    def __init__(self, start: LogStart, loggers: Sequence[str] = ()) -> None:
        check_loggers(loggers)
        self._logs: list[RunLog] = []
        with ExitStack() as failed:
            failed.callback(self.close)
            table = CsvLog(start)
            self._logs.append(table)
            with telling_what_failed(start.folder / EVENTS):
                self._logs.append(TensorBoardLog(start))
            for name in loggers:
                self._logs.append(_start(name, start))
            failed.pop_all()
        self.earlier = [row for row in table.rows if row.is_validation]
        self.seconds = table.rows[-1].seconds if table.rows else 0.0

    def note(self, row: LogRow) -> None:
        """Hand the figures of a step to all logs."""
        for log in tuple(self._logs):
            try:
                log.note(row)
            except Exception as error:
                if isinstance(log, CsvLog | TensorBoardLog):
                    raise
                # a service that is out of reach is no reason to stop learning
                self._logs.remove(log)
                warnings.warn(
                    f"{type(log).__name__} gets no more figures: {error}", stacklevel=2
                )

    def close(self) -> None:
        """Close all logs."""
        while self._logs:
            self._logs.pop().close()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_log(folder: Path, last_step: float = math.inf) -> list[LogRow]:
    """Read the table of a training up to a step; no row where it is gone or damaged.

    Parameters
    ----------
    folder : Path
        Of the training.
    last_step : float, optional
        The last step to read.
    """
    steps: dict[int, tuple[float, float, dict[str, float]]] = {}
    try:
        with (folder / LOG).open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                step = int(line["step"])
                if step <= last_step:
                    epoch, seconds = float(line["epoch"]), float(line["seconds"])
                    figures = steps.setdefault(step, (epoch, seconds, {}))[2]
                    figures[line["name"]] = float(line["value"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [LogRow(step, *values) for step, values in sorted(steps.items())]


def _lines(row: LogRow) -> list[tuple[object, ...]]:
    """Return the lines of a table for the figures of a step."""
    head = (row.step, f"{row.epoch:.2f}", f"{row.seconds:.1f}")
    return [(*head, name, f"{value:.6g}") for name, value in row.figures.items()]


def _start(name: str, start: LogStart) -> RunLog:
    try:
        return LOGGERS[name](start)
    except MissingDependencyError:
        raise
    # whatever a service raises: no key, no network, another run
    except Exception as error:
        raise OutputError(f"{name} does not take figures: {error}") from error


def _library(module: str) -> Any:
    return import_optional(
        module,
        module,
        f"figures go to {module} by its own library",
        "leave it out of the logs",
    )
