"""Writing JSON that every reader takes: Python's own writes NaN and Infinity, which are none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """JSON text of plain data; a number that is none, or has no end, is null.

    >>> dumps({"kl": float("nan"), "n": 3})
    '{"kl": null, "n": 3}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
