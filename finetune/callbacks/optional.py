"""Optional: packages that some callbacks need, and nothing else."""

from importlib.util import find_spec


def require(package: str, user: str, extra: str = "tracking") -> None:
    """Raises ModuleNotFoundError, which says what to install, unless `package` is there."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{user} needs the package {package}: pip install 'finetune-vision[{extra}]'",
            name=package,
        )
