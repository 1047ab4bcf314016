"""A training as a file: which data, which model, which settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_samseg.core.errors import MissingFileError, SettingsError
from napari_samseg.core.settings import ImageSettings, ModelSettings
from napari_samseg.core.training.files import TrainingFiles
from napari_samseg.core.training.presets import TuningPlan, find_preset

__all__ = ["TuneConfig", "read_config"]

PARTS = ("tune", "loop", "augment", "lora", "tiles")


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
    """

    files: TrainingFiles
    out: Path
    model: ModelSettings = field(default_factory=ModelSettings)
    plan: TuningPlan = field(default_factory=TuningPlan)
    stores: tuple[str, ...] = ()


def read_config(path: Path) -> TuneConfig:
    """Read a training from a YAML file; paths in it are seen from its folder.

    Raises
    ------
    MissingFileError
        If there is no such file.
    SettingsError
        If it is no YAML, or a setting is unknown, missing or out of bounds.
    UnknownNameError
        If there is no such preset.
    """
    import yaml

    if not path.is_file():
        raise MissingFileError(f"there is no configuration {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path} must be lines of `name: value`")
    return _Reader(path, dict(content)).read()


class _Reader:
    """Takes values out of a file's content; what is left in the end is unknown."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path, self._content = path, content

    def read(self) -> TuneConfig:
        plan = find_preset(str(self._content.pop("preset", "quick")))
        parts = {
            name: self._update(name, getattr(plan, name), self._part(name))
            for name in PARTS
        }
        image = self._update("image", ImageSettings(), self._part("image"))
        files = self._files(image)
        model = self._content.pop("model", {})
        if isinstance(model, str):
            model = {"model": model}
        stores = self._content.pop("stores", [])
        config = TuneConfig(
            files,
            self._path_of("out"),
            self._update("model", ModelSettings(), model),
            dataclasses.replace(plan, **parts),
            tuple([stores] if isinstance(stores, str) else stores),
        )
        if self._content:
            known = ", ".join(
                [*(f.name for f in dataclasses.fields(TrainingFiles)), "out", "model"]
            )
            raise SettingsError(
                f"{self._path}: unknown {', '.join(map(str, self._content))}; "
                f"known are {known}, preset, stores, image, {', '.join(PARTS)}"
            )
        return config

    def _files(self, image: ImageSettings) -> TrainingFiles:
        images = self._path_of("images")
        labels = self._content.get("labels")
        classes = self._content.pop("classes", ())
        return TrainingFiles(
            images,
            None if labels is None else self._path_of("labels"),
            bids_labels=str(self._content.pop("bids_labels", "")),
            semantic=bool(self._content.pop("semantic", False)),
            classes=tuple([classes] if isinstance(classes, int) else classes),
            group=str(self._content.pop("group", "")),
            channel_axis=self._content.pop("channel_axis", None),
            settings=image,
        )

    def _path_of(self, name: str) -> Path:
        value = self._content.pop(name, None)
        if not isinstance(value, str) or not value:
            raise SettingsError(f"{self._path}: `{name}: PATH` is missing")
        return self._path.parent / Path(value).expanduser()

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self._content.pop(name, None) or {}
        if not isinstance(part, Mapping):
            raise SettingsError(f"{self._path}: {name} must be lines of `name: value`")
        return part

    def _update(self, part: str, settings: Any, values: Mapping[str, Any]) -> Any:
        """Return settings with some values replaced, of the right types."""
        fields = {f.name: f for f in dataclasses.fields(settings)}
        changed = {}
        for name, value in values.items():
            if name not in fields:
                raise SettingsError(
                    f"{self._path}: {part} has no {name!r}; it has {', '.join(fields)}"
                )
            changed[name] = self._typed(f"{part}.{name}", value, fields[name].default)
        return dataclasses.replace(settings, **changed)

    def _typed(self, where: str, value: Any, default: Any) -> Any:
        kinds: dict[type, tuple[type, ...]] = {
            bool: (bool,),
            int: (int,),
            float: (int, float),
            str: (str,),
        }
        wanted = kinds.get(type(default))
        if isinstance(value, list):
            return tuple(value)
        if wanted is None:
            return value
        if not isinstance(value, wanted) or (
            isinstance(value, bool) and bool not in wanted
        ):
            hint = ""
            if isinstance(value, str) and float in wanted:
                # YAML takes 1e-4 for a word
                hint = "; write 1.0e-4 for 0.0001"
            raise SettingsError(
                f"{self._path}: {where} must be {wanted[-1].__name__}, not "
                f"{value!r}{hint}"
            )
        return type(default)(value)
