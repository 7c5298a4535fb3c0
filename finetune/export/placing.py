"""Putting an exported folder in its place: what may be replaced, and how a model stays whole."""

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from finetune.export.formats import DESCRIPTION, model_files

_HIDDEN_PREFIX = ".finetune."
_OLD = "old."
"""In the name of a hidden folder with the files that were in place before."""


def temporary_for(folder: Path) -> Path:
    """The path of a new hidden folder from which `place` can move files to `folder`.

    It lies beside `folder`, because files can be moved only within a file system; for the same
    reason it lies inside a `folder` that is a mount point.
    """
    return _hidden(folder, secrets.token_hex(4))


def lock_for(folder: Path) -> Path:
    """The lock of those who write `folder`."""
    return _hidden(folder, "lock")


def _hidden(folder: Path, name: str) -> Path:
    if os.path.ismount(folder):
        return folder / f"{_HIDDEN_PREFIX}{name}"
    return folder.with_name(f"{_HIDDEN_PREFIX}{name}.{folder.name}")


def remove_leftovers(folder: Path) -> None:
    """Removes what exports that were killed have left of themselves; its lock must be held.

    Where one was killed between moving the old model away and the new one in, the old one is put
    back.
    """
    if os.path.ismount(folder):
        for leftover in folder.glob(f"{_HIDDEN_PREFIX}*"):
            if leftover.is_dir():
                _put_back_files(leftover / "old", folder)
                shutil.rmtree(leftover, ignore_errors=True)
        return
    name = re.compile(
        rf"{re.escape(_HIDDEN_PREFIX)}({_OLD})?[0-9a-f]{{8}}\.{re.escape(folder.name)}"
    )
    for leftover in sorted(folder.parent.iterdir()):
        match = name.fullmatch(leftover.name)
        if match is None or leftover.is_symlink() or not leftover.is_dir():
            continue
        if match[1] and not folder.exists():
            leftover.rename(folder)
            continue
        _put_back_files(leftover / "old", folder)
        shutil.rmtree(leftover, ignore_errors=True)


def _put_back_files(old: Path, folder: Path) -> None:
    """Undoes the half of `_move_files`: without a description nobody reads a mixture."""
    if not (old / DESCRIPTION).is_file() or (folder / DESCRIPTION).exists():
        return
    for name in (*sorted(model_files() - {DESCRIPTION}), DESCRIPTION):
        (folder / name).unlink(missing_ok=True)
        if (old / name).exists():
            os.replace(old / name, folder / name)


def sync(folder: Path) -> None:
    """Waits until the files of a folder are on the disk, and would survive a power cut."""
    if os.name != "posix":
        return
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems can't
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises FileExistsError unless a model may be written to `folder`.

    A folder that is missing or empty is free. With `overwrite`, so is one that holds an exported
    model and nothing else.
    """
    if not folder.exists():
        return
    exists_already = FileExistsError(
        f"{str(folder)!r} exists already; pass overwrite=True to replace it"
    )
    if not folder.is_dir():
        raise exists_already
    names = _names_in(folder)
    if not names:
        return
    if not overwrite:
        raise exists_already
    foreign_names = names - model_files()
    if not foreign_names and DESCRIPTION not in names:
        # no exported model is without a description, so that a README.md here is somebody else's
        foreign_names = names
    if foreign_names:
        listed = ", ".join(sorted(foreign_names)[:3])
        raise FileExistsError(f"{str(folder)!r} holds other files and stays: {listed}")


def _names_in(folder: Path) -> set[str]:
    """The names of what people put into a folder."""
    names = {entry.name for entry in folder.iterdir()}
    if not os.path.ismount(folder):
        return names
    # a file system makes the one, an export that was killed leaves the other
    names.discard("lost+found")
    return {name for name in names if not name.startswith(_HIDDEN_PREFIX)}


def place(new: Path, folder: Path) -> None:
    """Puts the folder `new`, at the path of `temporary_for`, in the place of `folder`.

    After an error the old folder is as it was. A kill in between leaves the old files in a hidden
    folder, and never a mixture of old and new ones.
    """
    if new.parent == folder:
        _move_files(new, folder)
        return
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name(new.name.replace(_HIDDEN_PREFIX, f"{_HIDDEN_PREFIX}{_OLD}", 1))
    try:
        folder.rename(old)
    except OSError:  # a bind mount, or a folder of a container's image: only its files can move
        _move_files(new, folder)
        return
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _move_files(new: Path, folder: Path) -> None:
    """Replaces the files of `folder` by those of `new`; after an error the old ones are back.

    The description leaves first and arrives last, so that nobody reads a mixture as a model.
    """
    # in the order in which they arrive: a folder with a description is a whole model
    arriving = (*sorted(model_files() - {DESCRIPTION}), DESCRIPTION)
    old_names = [name for name in arriving if (folder / name).exists()]
    old = new / "old"
    old.mkdir()
    try:
        for name in reversed(old_names):
            os.replace(folder / name, old / name)
        for name in arriving:
            if (new / name).exists():
                os.replace(new / name, folder / name)
    except BaseException:
        for name in arriving:
            if (old / name).exists():
                os.replace(old / name, folder / name)
            elif name not in old_names:
                (folder / name).unlink(missing_ok=True)
        raise
