"""as_json: what commands answer to machines."""

import json
import math
from typing import Any


def as_json(value: Any) -> str:
    """JSON text. NaN and the infinities, which JSON has not, are null.

    >>> print(as_json({"r2": float("nan")}))
    {
      "r2": null
    }
    """
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
