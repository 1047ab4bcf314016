"""How long a model takes to encode a plane on this machine, as measured.

Every encoding is a measurement. The last few of each model, device and precision are
kept in a file of the cache folder, so that the time a stack will take can be told
before anything runs, and that of a model before it is loaded. Nothing depends on the
file: where it is damaged or cannot be written, there is no estimate.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock

from napari_samseg.core.annotation_file import cache_folder
from napari_samseg.core.models.protocol import PromptableModel, precision_of
from napari_samseg.core.whole_file import whole_file

__all__ = ["recall_speed", "recall_speeds", "remember_speed", "speed_path"]

# The median of five is not moved by a first call, nor by one beside a busy program.
MEASUREMENTS = 5
# A long job need not write at every plane.
SECONDS_BETWEEN = 30.0

_lock = Lock()
_last_written: dict[tuple[Path, str], float] = {}
_last_named: dict[tuple[Path, str], str] = {}


def speed_path() -> Path:
    """Return the file of measurements, in the cache folder."""
    return cache_folder() / "speed.json"


def remember_speed(
    model: PromptableModel, seconds: float, lanes: int = 1, what: str = ""
) -> None:
    """Keep how many seconds a plane took, unless that was done a moment ago.

    Parameters
    ----------
    model : PromptableModel
    seconds : float
        For each plane.
    lanes : int
        Planes that were encoded side by side.
    what : str
        What else was measured, if it was not encoding.
    """
    path, key = speed_path(), _key(model, lanes, what)
    now = time.monotonic()
    with _lock:
        is_plane = lanes == 1 and not what
        # another model may share the encoder, and a device may be come back to
        is_named = not is_plane or _last_named.get((path, model.name)) == key
        was_written = _last_written.get((path, key), -math.inf)
        if is_named and now - was_written < SECONDS_BETWEEN:
            return
        found = _read(path)
        kept = [*found.seconds.get(key, []), float(seconds)]
        found.seconds[key] = kept[-MEASUREMENTS:]
        if is_plane:
            found.named[model.name] = key
        if _write(path, found):
            _last_written[path, key] = now
            if is_plane:
                _last_named[path, model.name] = key


def recall_speed(
    model: PromptableModel, lanes: int = 1, what: str = ""
) -> float | None:
    """Return the seconds a model takes for a plane, None if it was never measured.

    That of many planes, `lanes` of them side by side, is not that of one alone.
    """
    measured = _read(speed_path()).seconds.get(_key(model, lanes, what))
    return statistics.median(measured) if measured else None


def recall_speeds() -> dict[str, float]:
    """Return the seconds of a plane by the name of the model, as it last ran here.

    Reads a small file: needs neither the models nor torch.
    """
    found = _read(speed_path())
    return {
        name: statistics.median(found.seconds[key])
        for name, key in found.named.items()
        if found.seconds.get(key)
    }


@dataclass(frozen=True, slots=True)
class _Measurements:
    """What the file holds: seconds by key, and the key that each name had last."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)


def _key(model: PromptableModel, lanes: int, what: str) -> str:
    # which loads torch; names and their speeds are asked for without it
    from napari_samseg.core.models.device import device_name

    name = device_name(model.device)
    key = f"{model.encoder_digest} {precision_of(model)} {name} {what}".strip()
    return key if lanes == 1 else f"{key} {lanes} lanes"


def _read(path: Path) -> _Measurements:
    """Read the measurements that make sense, none from a damaged file."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        seconds, named = stored["seconds"].items(), stored["named"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Measurements()
    return _Measurements(
        {
            key: values
            for key, values in seconds
            if isinstance(values, list) and all(map(_is_duration, values))
        },
        {name: key for name, key in named if isinstance(key, str)},
    )


def _is_duration(value: object) -> bool:
    return isinstance(value, float) and 0 < value < math.inf


def _write(path: Path, measured: _Measurements) -> bool:
    """Replace the file whole; tell whether that was possible."""
    try:
        with whole_file(path) as part:
            part.write_text(json.dumps(asdict(measured), indent=1), encoding="utf-8")
    except OSError:
        return False
    return True
