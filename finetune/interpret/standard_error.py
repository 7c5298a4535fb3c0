"""Standard errors of shares: by how much a figure of n examples may be off by chance."""

import math


def of_share(share: float, count: int) -> float:
    """The standard error of a share of `count` independent examples: `sqrt(p (1 - p) / n)`.

    It is 0 where the share is 0 or 1, which does not mean that it is certain.

    >>> round(of_share(0.8768, 341), 4)
    0.0178
    """
    return math.sqrt(max(share * (1 - share), 0.0) / count)


def with_error(value: str, error: float | None, decimals: int) -> str:
    """A value as text, and its standard error behind it where that changes the reading.

    error: in the unit of the text; None where it has none. decimals: of the text. An error of less
    than half a unit of the last decimal is left out.

    >>> with_error("87.7 %", 1.78, 1), with_error("87.7 %", 0.04, 1), with_error("0.5", None, 1)
    ('87.7 % ± 1.8', '87.7 %', '0.5')
    """
    if error is None or not error >= 0.5 * 10**-decimals:
        return value
    return f"{value} ± {error:.{decimals}f}"


def share_text(share: float, count: int, decimals: int = 4) -> str:
    """A share of `count` examples with its standard error.

    >>> share_text(0.8768, 341), share_text(1.0, 341)
    ('0.8768 ± 0.0178', '1.0000')
    """
    return with_error(f"{share:.{decimals}f}", of_share(share, count), decimals)
