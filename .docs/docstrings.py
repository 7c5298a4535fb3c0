"""Docstrings as the site shows them: doctests as code, names of the public interface as links."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.M)
ARGUMENT = re.compile(r"(?:^|(?<=[.;] ))((?:\*\*)?\w+(?:, \w+)*):[ \n]", re.M)
LAST_WORDS = re.compile(r"^(?=(?:Raises|Returns|Source:|Differs from) ?)", re.M)
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
            item.docstring.value = _as_markdown(item.docstring.value, item, public)
        if item.is_class:
            for member in item.members.values():
                if not member.is_alias:
                    self._change(member, public, seen)


def _as_markdown(text: str, item: Any, public: dict[str, Any]) -> str:
    """The docstring with doctests in fences, arguments as lists, and links to public names."""

    def link(match: re.Match[str]) -> str:
        if match[1] in SETTINGS:
            return f"[{match[0]}][{SETTINGS[match[1]]}]"
        owner = item if item.is_class else item.parent
        method = owner.functions.get(match[1])
        # one without a docstring is not in the reference
        if owner.name in public and method is not None and method.has_docstring:
            return f"[{match[0]}][finetune.{owner.name}.{match[1]}]"
        first, _, rest = match[1].partition(".")
        if first in public and (not rest or rest in public[first].members):
            return f"[{match[0]}][finetune.{match[1]}]"
        return match[0]

    def prose(words: str) -> str:
        paragraphs = [_with_list(part, _arguments_of(item)) for part in words.split("\n\n")]
        return NAME.sub(link, "\n\n".join(paragraphs))

    pieces = []
    end = 0
    for doctest in DOCTEST.finditer(text):
        pieces.append(prose(text[end : doctest.start()]))
        code = re.sub(r"^<BLANKLINE>$", "", doctest[0].rstrip(), flags=re.M)
        pieces.append(f"\n```pycon\n{code}\n```\n")
        end = doctest.end()
    pieces.append(prose(text[end:]))
    return "".join(pieces)


def _arguments_of(item: Any) -> set[str]:
    """The names that a docstring may explain: of parameters, and of the fields of a class."""
    if item.is_class:
        return {*item.members, *(parameter.name for parameter in item.parameters)}
    if item.is_function:
        return {parameter.name for parameter in item.parameters}
    return set()


def _with_list(paragraph: str, arguments: set[str]) -> str:
    """The paragraph with an item of a list for each "argument: what it is" in it."""
    starts = []
    for match in ARGUMENT.finditer(paragraph):
        if arguments.issuperset(match[1].split(", ")):
            starts.append(match)
    if not starts:
        return paragraph
    lines = []
    ends = [match.start() for match in starts[1:]] + [len(paragraph)]
    after = ""
    for match, end in zip(starts, ends, strict=True):
        what, *rest = LAST_WORDS.split(paragraph[match.end() : end], maxsplit=1)
        lines.append(f"- **{match[1]}**: {_indented(what)}")
        after += "".join(rest)
    return "\n\n".join([paragraph[: starts[0].start()], "\n".join(lines), after]).strip("\n")


def _indented(text: str) -> str:
    return text.strip().replace("\n", "\n    ")
