"""The check for packages that only some callbacks need."""

from importlib.util import find_spec


def require(package: str, user: str, extra: str = "tracking") -> None:
    """Raises ModuleNotFoundError, which says what to install, unless `package` is installed.

    user: the callback that needs it. extra: of finetune-vision, which brings the package.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{user} needs the package {package}: pip install 'finetune-vision[{extra}]'",
            name=package,
        )
