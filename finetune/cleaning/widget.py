"""The session as a widget of a notebook."""

from importlib import resources
from typing import Any

from finetune.cleaning.session import Session

FILES = resources.files("finetune.cleaning")


def create_widget(session: Session) -> Any:
    """A widget that shows the session and hands on what the person does.

    Raises ModuleNotFoundError without anywidget.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise ModuleNotFoundError(
            "cleaning in a notebook needs anywidget; run pip install 'finetune-vision[notebook]'; "
            "finetune clean does the same in a browser"
        ) from None

    class Cleaner(anywidget.AnyWidget):
        """The widget; its class is made here, as its library is optional."""

        _esm = FILES.joinpath("cleaner.js").read_text("utf-8")
        _css = FILES.joinpath("cleaner.css").read_text("utf-8")
        view = traitlets.Dict().tag(sync=True)

        def __init__(self) -> None:
            super().__init__(view=dict(session.view()))
            self.session = session
            self.on_msg(self._act)

        def _act(self, _widget: Any, command: Any, _buffers: Any) -> None:
            self.view = dict(session.act(command))

    return Cleaner()
