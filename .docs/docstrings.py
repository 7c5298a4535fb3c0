"""Docstrings as the site shows them: doctests as code, names of the public interface as links."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.M)
NAME = re.compile(r"(?<![`\[])`([A-Za-z_]\w*(?:\.\w+)?)(?:\(\))?`(?!`)")


SETTINGS = {
    "ImageSettings": "finetune.data.image_options.ImageSettings",
    "LearnerSettings": "finetune.learner_options.LearnerSettings",
    "FitSettings": "finetune.learner_options.FitSettings",
}
"""What the reference shows beside the public names, as many docstrings point there."""


class Docstrings(griffe.Extension):
    """Changes the docstrings when a package has been read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        public = {name: pkg[name] for name in pkg.exports or ()}
        seen: set[str] = set()
        for target in public.values():
            self._change(target.final_target if target.is_alias else target, public, seen)
        for module in pkg.modules.values():
            self._walk(module, public, seen)

    def _walk(self, module: griffe.Module, public: dict[str, Any], seen: set[str]) -> None:
        for member in module.members.values():
            if member.is_alias:
                continue
            if member.is_module:
                self._walk(member, public, seen)
            else:
                self._change(member, public, seen)

    def _change(self, item: Any, public: dict[str, Any], seen: set[str]) -> None:
        if item.path in seen:
            return
        seen.add(item.path)
        if item.docstring is not None:
            item.docstring.value = _as_markdown(item.docstring.value, public)
        if item.is_class:
            for member in item.members.values():
                if not member.is_alias:
                    self._change(member, public, seen)


def _as_markdown(text: str, public: dict[str, Any]) -> str:
    """The docstring with doctests in fences and links to public names."""

    def link(match: re.Match[str]) -> str:
        if match[1] in SETTINGS:
            return f"[{match[0]}][{SETTINGS[match[1]]}]"
        first, _, rest = match[1].partition(".")
        if first in public and (not rest or rest in public[first].members):
            return f"[{match[0]}][finetune.{match[1]}]"
        return match[0]

    pieces = []
    end = 0
    for doctest in DOCTEST.finditer(text):
        pieces.append(NAME.sub(link, text[end : doctest.start()]))
        code = re.sub(r"^<BLANKLINE>$", "", doctest[0].rstrip(), flags=re.M)
        pieces.append(f"\n```pycon\n{code}\n```\n")
        end = doctest.end()
    pieces.append(NAME.sub(link, text[end:]))
    return "".join(pieces)
