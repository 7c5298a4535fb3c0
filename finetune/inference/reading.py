"""Sources of examples for a prediction: every example once, in order, with its name and image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from finetune.data.batching import ImageLoader, UnlabelledLoader
from finetune.data.examples import Examples
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.images.decode import read_bands, read_image
from finetune.data.images.opening import ImageSource, file_name
from finetune.data.images.pipeline import ImagePipeline
from finetune.data.images.value_range import Depth, ValueRange
from finetune.data.loaders import (
    Batches,
    EpochLoader,
    IndexedLoader,
    InputPipeline,
    TorchLoader,
    epoch_loader,
)
from finetune.data.sources.folders import class_folders, from_folder
from finetune.inference import torch_loaders
from finetune.nested import count_examples
from finetune.tasks import Task

_SHOWN_SIDE = 320
"""Pixels of an image that is shown, at most."""


@dataclass(frozen=True, slots=True)
class InOrder:
    """All examples of an indexed loader by their number, whole batches in every process.

    A training loader would shuffle them and leave out the last ones. numbers: of some examples;
    None are all of them.
    """

    loader: IndexedLoader
    batch_size: int
    numbers: Tensor | None = None

    def _batches(self) -> list[Tensor]:
        numbers = self.numbers
        if numbers is None:
            numbers = torch.arange(count_examples(self.loader.targets))
        return list(torch.split(numbers, self.batch_size))

    def __len__(self) -> int:
        return len(self._batches())

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        return self.loader.fetch(self._batches()[start:])


def evenly_spread(loader: EpochLoader, most: int) -> EpochLoader:
    """The loader, or of more than `most` numbered examples so many, evenly spread over all."""
    if not isinstance(loader, InOrder):
        return loader
    total = count_examples(loader.loader.targets)
    if total <= most:
        return loader
    return replace(loader, numbers=torch.linspace(0, total - 1, most).round().long())


@dataclass(frozen=True, slots=True)
class Source:
    """What is read, and what is known of its examples.

    images: images or paths, by row. numbers: where each row is in what the caller gave, such as
    a data set that was split; None: they are counted as they come. value_range, channels:
    see `read_image` and `read_bands`.
    """

    loader: EpochLoader
    images: Sequence[Any] | None = None
    numbers: Tensor | None = None
    value_range: ValueRange | Depth | None = None
    channels: int = 3

    def items(self, count: int) -> list[str | int]:
        """The path of each example, or else its number."""
        items: list[str | int] = list(range(count))
        if self.numbers is not None:
            items = self.numbers.tolist()
        if isinstance(self.images, list | tuple):
            for row, image in enumerate(self.images):
                name = file_name(image)
                if name is not None:
                    items[row] = name
        return items

    @property
    def image(self) -> Callable[[int], Any] | None:
        """Opens the image of a row, small enough to be shown; None where no images are known."""
        return None if self.images is None else self._open

    def _open(self, row: int) -> Any:
        assert self.images is not None
        image = self._read(self.images[row])
        image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
        return image

    def _read(self, image: ImageSource) -> Image.Image:
        """In colour; of more channels the first three, of two the first one."""
        if self.channels == 3:
            return read_image(image, min_side=_SHOWN_SIDE, value_range=self.value_range)
        bands = read_bands(image, self.channels, value_range=self.value_range)
        return bands[0] if len(bands) < 3 else Image.merge("RGB", bands[:3])


@dataclass(frozen=True, slots=True)
class Reader:
    """Opens sources for a model of these classes and this task.

    default: what is read when no source is named; None: one must be. known_loaders: those that the
    model was trained with, whose decoded images and names of classes can be used.
    """

    pipeline: InputPipeline
    classes: tuple[str, ...] | None
    task: Task
    default: EpochLoader | None = None
    known_loaders: Sequence[EpochLoader] = ()

    def open(self, source: Any, *, labelled: bool = True, batch_size: int = 64) -> Source:
        """source: None for the default; a folder with one folder of images a class; Examples; an
        EpochLoader; or a torch DataLoader with targets.

        labelled: whether its labels are asked for. Raises ValueError where they are and there are
        none, or ones that mean other classes, and where no source is known.
        """
        if source is None:
            if self.default is None:
                raise ValueError(
                    "there is no validation data; pass a loader, or DataLoaders(train, valid)"
                )
            source = self.default
        if labelled and isinstance(source, UnlabelledLoader):
            raise ValueError(
                "this loader has no labels to compare with; learner.predict_folder(files) gives "
                "the predictions of unlabelled images"
            )
        if isinstance(source, str | Path):
            source = self._folder(Path(source))
        if isinstance(source, Examples):
            pipeline = self._image_pipeline()
            source = ImageLoader(source, pipeline.cache(source.items), batch_size, shuffle=False)
        loader = epoch_loader("source", source)
        if isinstance(loader, ImageLoader):
            loader = self._adopt(loader)
        if isinstance(loader, IndexedLoader):
            return self._indexed(loader)
        user_loader = torch_loaders.unwrapped(source)
        if isinstance(loader, TorchLoader):
            loader = loader.whole()
        if labelled:
            torch_loaders.check_classes(self.task, self.classes, self.known_loaders, user_loader)
        torch_loaders.warn_of_disorder(user_loader)
        return Source(loader, torch_loaders.paths_of(user_loader))

    def _folder(self, folder: Path) -> Examples:
        """A folder of classes, all of which the model knows; it may lack some."""
        if not self.task.exclusive:
            raise ValueError(
                f"a model for {self.task.name} is evaluated on a table of labels, a .csv file"
            )
        if folder.is_dir() and self.classes is not None:
            check_known(folder, set(class_folders(folder)), self.classes)
        return from_folder(folder, self.classes)

    def _image_pipeline(self) -> ImagePipeline:
        pipeline = self.pipeline
        if isinstance(pipeline, ImageDataLoaders):
            pipeline = pipeline.pipeline
        if not isinstance(pipeline, ImagePipeline):
            raise ValueError(
                "these predictions are not of images: pass a loader of what the model takes"
            )
        return pipeline

    def _adopt(self, loader: ImageLoader) -> ImageLoader:
        """The examples of any loader of images, in this model's size and classes.

        Raises ValueError for labels that mean something else here.
        """
        for known in self.known_loaders:
            if isinstance(known, ImageLoader) and loader.examples is known.examples:
                return known
        if self.classes is None:
            return loader
        pipeline = self._image_pipeline()
        examples = loader.examples.in_classes(self.classes, self.task)
        presizing = pipeline.preprocessing.without_normalisation()
        if examples is loader.examples and loader.cache.preprocessing == presizing:
            return loader
        return ImageLoader(
            examples, pipeline.cache(examples.items), loader.batch_size, shuffle=False
        )

    def _indexed(self, loader: IndexedLoader) -> Source:
        batch_sizes = [len(batch) for batch in loader.order(self.pipeline.seed, 0)]
        numbers = loader.examples.numbers if isinstance(loader, ImageLoader) else None
        images = getattr(loader, "items", None)
        value_range, channels = None, 3
        if isinstance(loader, ImageLoader):
            # a prediction does not depend on whether the model was trained with the image
            loader = loader.of_squares()
            value_range = loader.cache.preprocessing.value_range
            channels = loader.cache.preprocessing.channels
        in_order = InOrder(loader, max(batch_sizes, default=1))
        return Source(in_order, images, numbers, value_range, channels)


def check_known(source: Path, names: set[str], classes: Sequence[str]) -> None:
    """Raises ValueError for names of classes that a model does not know."""
    unknown = sorted(names - set(classes))
    if unknown:
        raise ValueError(
            f"{str(source)!r} has classes that the model does not know: "
            f"{', '.join(map(repr, unknown))}; it knows {', '.join(map(repr, classes))}"
        )
