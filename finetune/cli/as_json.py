"""as_json: what commands answer to machines."""

import json
import math
from typing import Any


def as_json(value: Any) -> str:
    """JSON text. NaN and the infinities, which JSON does not have, become null.

    >>> print(as_json({"r2": float("nan")}))
    {
      "r2": null
    }
    """
    return json.dumps(_without_non_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_non_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
