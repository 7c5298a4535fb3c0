"""Where an exported folder goes: what may be replaced, and how a whole model is always there."""

import os
import secrets
import shutil
from pathlib import Path

from finetune.export.formats import DESCRIPTION, OWN_FILES

_NAMES = sorted(OWN_FILES, key=lambda name: name == DESCRIPTION)
"""The description last: a folder without it is no model, with it it is a whole one."""

_HIDDEN = ".finetune."


def temporary_for(folder: Path) -> Path:
    """A hidden folder, not there yet, from which `place` can move files to `folder`.

    It is beside the folder, but inside of a mount point, which is another file system.
    """
    own = f"{_HIDDEN}{secrets.token_hex(4)}"
    return folder / own if os.path.ismount(folder) else folder.with_name(f"{own}.{folder.name}")


def check_free(folder: Path, overwrite: bool) -> None:
    """Only a folder that holds nothing but an exported model may be replaced."""
    if not folder.exists():
        return
    inside = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if os.path.ismount(folder):  # what is there before anyone wrote anything, or is of an export
        inside = {n for n in inside if n != "lost+found" and not n.startswith(_HIDDEN)}
    if folder.is_dir() and not inside:
        return
    if not overwrite or not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} exists already; pass overwrite=True to replace it")
    others = sorted(inside - OWN_FILES) or sorted(inside if DESCRIPTION not in inside else ())
    if others:
        raise FileExistsError(
            f"{str(folder)!r} holds other files and stays: {', '.join(others[:3])}"
        )


def place(new: Path, folder: Path) -> None:
    """Puts `new`, made by `temporary_for`, in the place of `folder`; after an error the old stays.

    A kill in between leaves the old files in a hidden folder, and never a mixture of both.
    """
    if new.parent == folder:
        _move_files(new, folder)
        return
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name(f"{new.name}.old")
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
    before = [name for name in _NAMES if (folder / name).exists()]
    old = new / "old"
    old.mkdir()
    try:
        for name in reversed(before):
            os.replace(folder / name, old / name)
        for name in _NAMES:
            if (new / name).exists():
                os.replace(new / name, folder / name)
    except BaseException:
        for name in _NAMES:
            if (old / name).exists():
                os.replace(old / name, folder / name)
            elif name not in before:
                (folder / name).unlink(missing_ok=True)
        raise
