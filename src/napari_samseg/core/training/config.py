"""A training as a file: which data, which model, which settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import MissingFileError, SettingsError
from napari_samseg.core.models.checkpoint import SUFFIXES
from napari_samseg.core.settings import ImageSettings, ModelSettings
from napari_samseg.core.training.files import TrainingFiles
from napari_samseg.core.training.logs import check_loggers
from napari_samseg.core.training.place import training_folder
from napari_samseg.core.training.presets import PLAN_PARTS, TuningPlan, find_preset

__all__ = ["TuneConfig", "read_config"]

KNOWN = (
    *(f.name for f in dataclasses.fields(TrainingFiles) if f.name != "settings"),
    "out",
    "model",
    "preset",
    "stores",
    "log",
    "image",
    *PLAN_PARTS,
)


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """What a configuration file says.

    Attributes
    ----------
    files : TrainingFiles
    out : Path
        Folder of the training.
    model : ModelSettings
    plan : TuningPlan
    stores : tuple of str
        Where embeddings of the images may lie.
    loggers : tuple of str
        Services that get the figures too; see `napari_samseg.core.training.logs`.
    """

    files: TrainingFiles
    out: Path
    model: ModelSettings = field(default_factory=ModelSettings)
    plan: TuningPlan = field(default_factory=TuningPlan)
    stores: tuple[str, ...] = ()
    loggers: tuple[str, ...] = ()


def read_config(path: Path) -> TuneConfig:
    """Read a training from a YAML file; paths in it are seen from its folder.

    Raises
    ------
    MissingFileError
        If there is no such file.
    SettingsError
        If it is no YAML, or a setting is unknown, missing or out of bounds.
    UnknownNameError
        If there is no such preset or logger.
    """
    import yaml

    if not path.is_file():
        raise MissingFileError(f"there is no configuration {path}")
    try:
        with path.open(encoding="utf-8") as file:  # of a file, errors have its name
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path} must be lines of `name: value`")
    return _Reader(path, dict(content)).read()


class _Reader:
    """Takes values out of a file's content."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path, self._content = path, content

    def read(self) -> TuneConfig:
        unknown = [str(name) for name in self._content if name not in KNOWN]
        if unknown:
            raise SettingsError(
                f"{self._path}: unknown {', '.join(unknown)}; known are "
                f"{', '.join(KNOWN)}"
            )
        plan = find_preset(self._take("preset", str, "quick"))
        parts = {
            name: self._update(name, getattr(plan, name), self._part(name))
            for name in PLAN_PARTS
        }
        image = self._update("image", ImageSettings(), self._part("image"))
        loggers = self._words("log")
        check_loggers(loggers)
        return TuneConfig(
            self._files(image),
            self._out(),
            self._model(),
            dataclasses.replace(plan, **parts),
            tuple(self._location(store) for store in self._words("stores")),
            loggers,
        )

    def _files(self, image: ImageSettings) -> TrainingFiles:
        labels = self._take("labels", str, "")
        bids_labels = self._take("bids_labels", str, "")
        if bool(labels) == bool(bids_labels):
            raise SettingsError(
                f"{self._path}: give either `labels: PATH` or, of a BIDS dataset, "
                "`bids_labels: NAME`"
            )
        images = self._take("images", str, "")
        if not images:
            raise SettingsError(f"{self._path}: `images: PATH` is missing")
        axis = self._content.get("channel_axis")
        try:
            return TrainingFiles(
                self._seen(images),
                self._seen(labels) if labels else None,
                bids_labels=bids_labels,
                semantic=self._take("semantic", bool, default=False),
                classes=self._numbers("classes", self._content.get("classes")),
                group=self._take("group", str, ""),
                channel_axis=None if axis is None else self._take("channel_axis", int),
                settings=image,
            )
        except SettingsError as error:
            raise self._named("", error) from error

    def _out(self) -> Path:
        out = self._take("out", str, "")
        if not out:
            raise SettingsError(
                f"{self._path}: `out: NAME` is missing: the name of the new model, or "
                "a folder such as ./tuned"
            )
        try:
            return training_folder(out, self._path.parent)
        except SettingsError as error:
            raise self._named("out", error) from error

    def _model(self) -> ModelSettings:
        value = self._content.get("model")
        values = {"model": value} if isinstance(value, str) else self._part("model")
        settings: ModelSettings = self._update("model", ModelSettings(), values)
        name = settings.model
        if name.endswith(SUFFIXES):
            settings = dataclasses.replace(settings, model=str(self._seen(name)))
        return settings

    def _seen(self, path: str) -> Path:
        return self._path.parent / Path(path).expanduser()

    def _location(self, store: str) -> str:
        return store if "://" in store else str(self._seen(store))

    def _take(self, name: str, kind: type, default: Any = None) -> Any:
        value = self._content.get(name)
        if value is None and default is not None:
            return default
        return self._typed(name, value, kind)

    def _words(self, name: str) -> tuple[str, ...]:
        value = self._content.get(name)
        words = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(self._typed(name, word, str) for word in words)

    def _numbers(self, where: str, value: Any) -> tuple[int, ...]:
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(self._typed(where, number, int) for number in numbers)

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self._content.get(name)
        if part is None:
            return {}
        if not isinstance(part, Mapping):
            raise SettingsError(f"{self._path}: {name} must be lines of `name: value`")
        return part

    def _update(self, part: str, settings: Any, values: Mapping[str, Any]) -> Any:
        """Return settings with some values replaced, of the right types."""
        fields = {f.name: f for f in dataclasses.fields(settings)}
        changed: dict[str, Any] = {}
        for name, value in values.items():
            if name not in fields:
                raise SettingsError(
                    f"{self._path}: {part} has no {name!r}; it has {', '.join(fields)}"
                )
            default, where = fields[name].default, f"{part}.{name}"
            if default is None:  # channels: none, or whole numbers
                changed[name] = self._numbers(where, value) or None
            else:
                changed[name] = self._typed(where, value, type(default))
        try:
            return dataclasses.replace(settings, **changed)
        except SettingsError as error:
            raise self._named(part, error) from error

    def _named(self, part: str, error: SettingsError) -> SettingsError:
        """Say of an error which file and which part it is in."""
        where = f"{self._path}: {part}: " if part else f"{self._path}: "
        return SettingsError(f"{where}{error}")

    def _typed(self, where: str, value: Any, kind: type) -> Any:
        if kind is float and isinstance(value, str):
            try:  # YAML takes 1e-4 for a word
                return float(value)
            except ValueError:
                pass
        fits = (int, float) if kind is float else kind
        if isinstance(value, fits) and (kind is bool) == isinstance(value, bool):
            return kind(value)
        names = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: 'text (put words such as true and 12 in quotes: "true")',
        }
        raise SettingsError(
            f"{self._path}: {where} must be {names[kind]}, not {value!r}"
        )
