"""app.py: a demo of the model, for a host of demos or any container."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from finetune.export.description import ModelDescription
from finetune.export.formats import ExportFormat
from finetune.export.served import ModelToExport
from finetune.files.replacing import write_text
from finetune.tasks import Task

PORT = 7860
"""What hosts of demos expect."""

_APP = f'''\
"""A demo of the model in this folder: a page, and /predict for programs."""

import os
from pathlib import Path

from finetune.serving.serve import serve

if __name__ == "__main__":
    serve(
        Path(__file__).parent,
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(os.environ.get("PORT", "{PORT}")),
    )
'''

# matplotlib, which colours heat maps, keeps a cache
_DOCKERFILE = f"""\
FROM python:3.12-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
ENV HOST=0.0.0.0 PORT={PORT} MPLCONFIGDIR=/tmp/matplotlib
EXPOSE {PORT}
USER 1000
CMD ["python", "app.py"]
"""


class App(ExportFormat):
    """Beside the weights: app.py, requirements.txt, and a Dockerfile that runs them anywhere."""

    name: ClassVar[str] = "app"
    file: ClassVar[str] = "app.py"
    more_files: ClassVar[tuple[str, ...]] = ("requirements.txt", "Dockerfile")
    needs: ClassVar[tuple[str, ...]] = ("safetensors",)
    front_matter: ClassVar[Mapping[str, Any]] = {"sdk": "docker", "app_port": PORT}

    def write(self, folder: Path, exported: ModelToExport) -> None:
        write_text(folder / self.file, _APP)
        requirement = f"finetune-vision[serve]=={version('finetune-vision')}\n"
        write_text(folder / "requirements.txt", requirement)
        write_text(folder / "Dockerfile", _DOCKERFILE)

    def describe(self, input_shape: Sequence[int], task: Task) -> dict[str, Any]:
        return {"file": self.file, "input": "files of images", "output": "a page, and JSON"}

    def introduction(self, description: ModelDescription) -> str:
        return (
            f"`{self.file}` is a demo in a browser, with `/predict` for programs: `pip install -r "
            f"requirements.txt && python {self.file}`, and open port {PORT}. With the `Dockerfile` "
            "a container or a host of demos runs this folder as it is."
        )

    def usage(self, description: ModelDescription, source: str) -> str:
        return ""
