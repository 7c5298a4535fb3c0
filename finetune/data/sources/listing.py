"""What is in a folder: the images in and below it, and what is left out."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune.data.images.opening import image_extensions
from finetune.wording import counted, warn

SYSTEM_FOLDERS = frozenset({"@eaDir", "__MACOSX", ".thumbnails", "#recycle", "$RECYCLE.BIN"})
"""Folders that systems make by themselves; the images in them are small copies, or deleted ones."""

_TEXTS = frozenset(
    {".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".tsv", ".txt", ".xml"}
    | {".yaml", ".yml"}
)
"""Endings of files that nobody takes for images: it is not said that they are left out."""

_MAC_COPIES = "._*"
"""Files in which a Mac keeps what other file systems have no place for; they end like images."""

_PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif"}
"""Packages with which Pillow opens files that it can't open by itself."""


@dataclass(slots=True)
class Listing:
    """The files in and below some folders; hidden files and folders are not looked at.

    images: paths of what Pillow can open, by their endings, in no order. Paths are strings, because
    to make a million `Path` objects is slow. left_out: how many of the other files have each
    ending, in lower case. system_folders: how many folders of each name were left out.
    """

    images: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    system_folders: Counter[str] = field(default_factory=Counter)

    def add(self, folder: str) -> list[str]:
        """Lists the images in and below one more folder; returns them, sorted.

        A link to a folder is followed once, unless it leads into `folder` itself, whose files are
        found without it; so a link to a folder above ends.
        """
        first = len(self.images)
        top = os.path.realpath(folder)
        followed: set[str] = set()
        folders = [folder]
        while folders:
            for entry in self._read(folders.pop()):
                if entry.is_symlink() and not _leads_to_new(entry.path, top, followed):
                    continue
                folders.append(entry.path)
        added = sorted(self.images[first:])
        self.images[first:] = added
        return added

    def add_beside_folders(self, folder: str) -> None:
        """Lists what is in the folder itself as left out: its images have no class."""
        directly = Listing()
        directly._read(folder)
        self.left_out.update(directly.left_out)
        self.system_folders.update(directly.system_folders)
        if directly.images:
            self.left_out["beside the class folders"] += len(directly.images)

    def _read(self, folder: str) -> list["os.DirEntry[str]"]:
        """Sorts the files of one folder into images and others; returns its folders."""
        extensions = image_extensions()
        images, left_out = self.images, self.left_out
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    self._count_hidden(name)
                elif entry.is_dir():  # asks the disk only about links; scandir knows the others
                    if name in SYSTEM_FOLDERS:
                        self.system_folders[name] += 1
                    else:
                        folders.append(entry)
                # os.path.splitext would take half of the time
                elif name[name.rfind(".") :].lower() in extensions:
                    images.append(entry.path)
                else:
                    left_out[os.path.splitext(name)[1].lower() or "(none)"] += 1
        return folders

    def _count_hidden(self, name: str) -> None:
        if name.startswith("._"):
            self.left_out[_MAC_COPIES] += 1
        elif name in SYSTEM_FOLDERS:
            self.system_folders[name] += 1

    def notice(self, folder: str | os.PathLike[str]) -> None:
        """Warns of files that are left out and might be taken for images, in one line."""
        files = {ending: n for ending, n in self.left_out.items() if ending not in _TEXTS}
        if not files and not self.system_folders:
            return
        counts = [f"{count:,} {ending}" for ending, count in sorted(files.items())]
        counts += [f"{counted(n, 'folder')} {name}" for name, n in self.system_folders.items()]
        warn(f"left out in {os.fspath(folder)!r}: {', '.join(counts)}{plugin_hint(files)}")


def plugin_hint(endings: Mapping[str, int]) -> str:
    """How files with these endings can be opened, after a semicolon; empty where nobody knows."""
    packages = {_PLUGINS[ending] for ending in endings if ending in _PLUGINS}
    if not packages:
        return ""
    return f"; to read them, install and register {' and '.join(sorted(packages))}, or convert them"


def _leads_to_new(link: str, top: str, followed: set[str]) -> bool:
    """Whether a link leads out of the folder `top` to one that has not been followed yet."""
    target = os.path.realpath(link)
    is_above = os.path.join(top, "").startswith(os.path.join(target, ""))
    is_below = target.startswith(os.path.join(top, ""))
    if is_above or is_below or target in followed:
        return False
    followed.add(target)
    return True
