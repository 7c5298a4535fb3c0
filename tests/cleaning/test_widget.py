"""The widget hands on what its front end sends; JupyterLab opens it in tests/test_jupyter.py."""

import pytest

from finetune.cleaning.session import Session
from finetune.cleaning.widget import create_widget

pytest.importorskip("anywidget")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_front_end_sends_is_done(session: Session) -> None:
    widget = create_widget(session)
    assert widget.view["number"] == 0
    widget._handle_custom_msg({"do": "decide", "number": 0, "action": "remove"}, [])
    assert widget.view["number"] == 1
    assert session.decisions["hat/0.jpg"].action == "remove"
    widget._handle_custom_msg({"do": "undo"}, [])
    assert (widget.view["number"], session.decisions) == (0, {})
    assert widget.view["revision"] == 3
