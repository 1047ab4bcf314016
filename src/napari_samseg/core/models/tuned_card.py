"""Cards of tuned models: what they were made from, and how good they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_samseg.core.amounts import count_things

__all__ = [
    "card_scores",
    "describe_card",
    "describe_gain",
    "describe_step",
    "read_card",
]

KINDS = ("box", "point")
# Of a time in ISO 8601, the day.
DAY = 10


def read_card(weights: Path) -> dict[str, Any]:
    """Return the card beside the weights of a model; empty where none can be used."""
    try:
        card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if _is_card(card) else {}


def _is_card(card: object) -> bool:
    """Tell whether it has the shape of a card: anyone may have edited the file."""
    if not isinstance(card, dict):
        return False
    base, images = card.get("base"), card.get("images") or []
    named = ("objects", "scores", "errors", "settings")
    groups = [card.get(name) or {} for name in named]
    if not isinstance(images, list) or not _are_mappings(base, *groups, *images):
        return False
    objects, scores, errors, settings = groups
    sides = [side or {} for side in (*scores.values(), *errors.values())]
    names = [about.get("name") for about in (base, *images)]
    return (
        _are_mappings(*sides, settings.get("tune") or {})
        and all(isinstance(name, str) for name in names)
        and all(_are_numbers(figures) for figures in (objects, *sides))
    )


def _are_mappings(*parts: object) -> bool:
    return all(isinstance(part, dict) for part in parts)


def _are_numbers(figures: Mapping[str, Any]) -> bool:
    return all(isinstance(figure, int | float) for figure in figures.values())


def card_scores(
    card: Mapping[str, Any],
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return the scores before and after, by name; empty where none were made."""
    scores = card.get("scores") or {}
    return scores.get("before") or {}, scores.get("after") or {}


def describe_card(card: Mapping[str, Any]) -> str:
    """Say in a line what a model was made from and when, and how good it is."""
    if not card:
        return "Tuned here; its card cannot be read"
    text = f"Tuned here from {card['base']['name']}"
    n_objects = (card.get("objects") or {}).get("training")
    if n_objects:
        text += f" on {count_things(n_objects, 'object')}"
    if card.get("made"):
        text += f", {str(card['made'])[:DAY]}"
    is_base = card.get("step") == 0
    shown = describe_step(card) if is_base else describe_gain(card)
    return f"{text}: {shown}" if shown else text


def describe_step(card: Mapping[str, Any]) -> str:
    """Say which step the weights are of, or that none was better than the start."""
    if card.get("step") == 0:
        return f"no step was better: the weights of {card['base']['name']}"
    return f"step {card.get('step', '')}"


def describe_gain(card: Mapping[str, Any]) -> str:
    """Say the IoU before and after; empty where nothing was validated."""
    before, after = card_scores(card)
    parts = []
    for kind in KINDS:
        if kind in after:
            old = f"{before[kind]:.2f} \u2192 " if kind in before else ""
            parts.append(f"{kind} {old}{after[kind]:.2f}")
    return f"IoU by {', '.join(parts)}" if parts else ""
