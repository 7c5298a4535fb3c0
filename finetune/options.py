"""Options that several functions share: named once, as the fields of a data class.

A function takes them as `**options: Unpack[SomeOptions]`, a TypedDict that editors and type
checkers read. `takes_options` does the rest at run time: a wrong name is an error with the nearest
right one, or with ours for a word of another library; and `help()` and a notebook's tooltips show
every option with its default.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from finetune.dictionary import option_hint
from finetune.wording import did_you_mean

AnyCallable = TypeVar("AnyCallable", bound=Callable[..., Any])


def takes_options(settings: type | None = None) -> Callable[[AnyCallable], AnyCallable]:
    """Decorates a function whose `**options` are the fields of the data class `settings`.

    None is for a function that has no such options, whose wrong ones are answered alike.

    >>> @dataclasses.dataclass
    ... class Settings:
    ...     batch_size: int = 64
    >>> @takes_options(Settings)
    ... def load(folder: str, **options) -> int:
    ...     return Settings(**options).batch_size
    >>> load("photos", batch_size=8), str(inspect.signature(load))
    (8, '(folder: str, *, batch_size: int = 64) -> int')
    >>> load("photos", batchsize=8)
    Traceback (most recent call last):
        ...
    TypeError: load() has no option 'batchsize'; did you mean 'batch_size'?
    """

    def decorate(function: AnyCallable) -> AnyCallable:
        signature = inspect.signature(function)
        if settings is not None:
            signature = _expanded_signature(signature, settings)
        names = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.name not in ("self", "cls")
        ]

        @functools.wraps(function)
        def checked(*arguments: Any, **options: Any) -> Any:
            for name in options:
                if name not in names:
                    hint = option_hint(name, names) or did_you_mean(name, names)
                    raise TypeError(f"{function.__name__}() has no option {name!r}; {hint}")
            return function(*arguments, **options)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


def _expanded_signature(signature: inspect.Signature, settings: type) -> inspect.Signature:
    """A function's signature with the fields of `settings` in the place of `**options`."""
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    spelled_out = {parameter.name for parameter in parameters}
    for field in dataclasses.fields(settings):
        if field.name not in spelled_out:
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=_default_of(field),
                    annotation=field.type,
                )
            )
    return signature.replace(parameters=parameters)


def _default_of(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
