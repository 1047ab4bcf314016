"""Small JSON texts that know when they were cut off or changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xxhash

__all__ = ["sealed", "to_sealed_bytes", "unsealed"]

CHECKSUM = "checksum"


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with the checksum of what it says."""
    return {**body, CHECKSUM: _digest(body)}


def to_sealed_bytes(body: Mapping[str, Any]) -> bytes:
    """Return a body with its checksum as JSON text."""
    return json.dumps(sealed(body)).encode()


def unsealed(content: object) -> dict[str, Any] | None:
    """Return the body of what `sealed` or `to_sealed_bytes` made.

    None if it is something else, or is not what it was.
    """
    if isinstance(content, bytes):
        try:
            content = json.loads(content)
        except ValueError:
            return None
    if not isinstance(content, Mapping):
        return None
    body = {name: value for name, value in content.items() if name != CHECKSUM}
    return body if content.get(CHECKSUM) == _digest(body) else None


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True)
    return xxhash.xxh3_64(text.encode()).hexdigest()
