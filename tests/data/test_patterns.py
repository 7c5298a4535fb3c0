import re

import pytest

from finetune.data.patterns import finder


def test_group_of_the_pattern_is_found_anywhere_in_the_text() -> None:
    assert finder("groups", re.compile(r"p(\d+)"), "group")("cat/p12/3.jpg") == "12"


@pytest.mark.parametrize("pattern", ["cat", "(cat)(dog)"])
def test_pattern_without_exactly_one_group_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"groups='.*' needs one group in brackets, which is the "):
        finder("groups", pattern, "group")


def test_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pattern='\(' is no regular expression: "):
        finder("pattern", "(", "label")


@pytest.mark.parametrize("text", ["dog.jpg", "p.jpg"])
def test_text_without_the_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"groups='p\(\\\\d\*\)' finds no group in "):
        finder("groups", r"p(\d*)", "group")(text)
