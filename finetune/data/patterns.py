"""Regular expressions with one group, which find a name in a text."""

import re
from collections.abc import Callable


def finder(argument: str, pattern: "str | re.Pattern[str]", what: str) -> Callable[[str], str]:
    """A function that finds a name in a text, with the only group of a regular expression.

    argument: whose value the pattern is, and what: what it finds, for errors. Raises ValueError for
    a pattern without exactly one group. The function raises it for a text without the name.

    >>> finder("pattern", r"^(.+)_", "label")("tabby_12.jpg")
    'tabby'
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{argument}={pattern!r} is no regular expression: {error}") from error
    if expression.groups != 1:
        raise ValueError(
            f"{argument}={expression.pattern!r} needs one group in brackets, which is the {what}; "
            f"it has {expression.groups}"
        )

    def find(text: str) -> str:
        match = expression.search(text)
        if match is None or not match[1]:
            raise ValueError(f"{argument}={expression.pattern!r} finds no {what} in {text!r}")
        return match[1]

    return find
