"""Predictor: a model in evaluation with preprocessing, classes, task and post-processing."""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from math import nan
from typing import Any, TypeAlias, cast, overload

import torch
from torch import Tensor, nn

from finetune import arguments
from finetune.data.examples import Examples
from finetune.data.groups import Groups, checked_groups, groups_of
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.images.opening import ImageError, ImageSource
from finetune.data.images.pipeline import ImagePipeline
from finetune.data.loaders import EpochLoader, InputPipeline, epoch_loader
from finetune.dictionary import answers_other_words
from finetune.distributed.together import together
from finetune.export.labelled_images import MOST_IMAGES, Batches, LabelledImages
from finetune.inference.activation_maps import grad_cam_of_layers
from finetune.inference.answerer import Answerer
from finetune.inference.features import Features, compute_features
from finetune.inference.files import Files, predict_files
from finetune.inference.known_features import fit_familiarity
from finetune.inference.label_issues import cross_probabilities
from finetune.inference.outputs import (
    Outputs,
    compute_outputs,
    mean_over_groups,
    mean_over_views,
    reading,
)
from finetune.inference.reading import InOrder, Reader, Source, evenly_spread
from finetune.interpret.activation import ActivationMap
from finetune.interpret.prediction_table import PredictionTable
from finetune.interpret.suspicious import SuspiciousLabels, suspicious_labels
from finetune.metrics import Metrics, create_metrics
from finetune.models.evaluation_view import evaluation_view
from finetune.modes import usual_modes
from finetune.nested import main_output
from finetune.tasks import (
    DEFAULT_TASK,
    Answer,
    Familiarity,
    FilePrediction,
    Loss,
    PostProcessing,
    PriorChoice,
    Priors,
    TaskLike,
    resolve_task,
)
from finetune.training.evaluation import computed, evaluate, update_metrics
from finetune.training.runtime.runtime import Runtime
from finetune.wording import did_you_mean

LoaderLike: TypeAlias = str | os.PathLike[str] | Examples | EpochLoader | Iterable[Any]
"""A folder of classes, examples, a loader of ours, or a torch DataLoader with targets."""


@answers_other_words("Predictor")
class Predictor:
    """A model that answers: for images, folders, loaders; it has no optimizer and does not train.

    `learner.predictor()` makes one, `load_learner` another one from an exported folder. It never
    changes the model that it was made of, and may be used from any number of threads. It belongs to
    the weights as they are: take a new one after training.

    model: any module; the predictor shares its weights, under modules of its own in eval mode.
    classes: names of the model's outputs, or None where there are none. pipeline: how items become
    inputs, an `ImagePipeline` or `DataLoaders`. task: what the outputs mean. post_processing: the
    temperature and thresholds that were fitted to these weights. runtime: how passes over whole
    data sets run; None: in float32 where the model is. Single answers are always computed in
    float32. loss, metrics: of `evaluate`, metrics as names or as a mapping of names to objects, see
    `create_metrics`; None: what suits the task. valid: what is read where no
    source is named. known_loaders: those that the model was trained with. training_shares: how
    often training saw each class, see `DataLoaders.class_shares`.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> predictor = learner.predictor()
    >>> predictor.predict(images[0]).probabilities.keys()
    dict_keys(['dark', 'light'])
    >>> len(predictor.predictions())
    2
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str] | None,
        pipeline: InputPipeline,
        *,
        task: TaskLike = DEFAULT_TASK,
        post_processing: PostProcessing | None = None,
        runtime: Runtime | None = None,
        loss: Loss | None = None,
        metrics: Mapping[str, Any] | Sequence[str] | None = None,
        valid: EpochLoader | None = None,
        known_loaders: Sequence[EpochLoader] = (),
        training_shares: Mapping[str, float] | None = None,
    ) -> None:
        self.model = evaluation_view(arguments.instance("model", model, nn.Module))
        self.classes: tuple[str, ...] | None = None
        if classes is not None:
            self.classes = tuple(arguments.sequence("classes", classes, "names"))
        self.pipeline = _checked_pipeline(pipeline)
        self.task = resolve_task(task)
        if post_processing is None:
            post_processing = PostProcessing()
        self._use(arguments.instance("post_processing", post_processing, PostProcessing))
        if self.classes is not None:
            self.post_processing.thresholds_of(self.classes)  # raises for a class that is not there
        if runtime is None:
            runtime = Runtime(next(model.parameters()).device)
        self.runtime = arguments.instance("runtime", runtime, Runtime)
        if loss is None:
            loss = self.task.default_loss()
        self._loss = arguments.function("loss", loss, "(outputs, targets) -> scalar")
        if metrics is not None and not isinstance(metrics, Mapping):
            # names are made objects when they are needed, which imports torchmetrics
            arguments.sequence("metrics", metrics, "names, or a mapping to objects")
        self._metrics = metrics
        if valid is not None:
            valid = epoch_loader("valid", valid)
        self._valid = valid
        arguments.sequence("known_loaders", known_loaders, "loaders")
        if training_shares is None:
            training_shares = {}
        self._training_shares = arguments.mapping(
            "training_shares", training_shares, "class names to shares"
        )
        self._reader = Reader(pipeline, self.classes, self.task, valid, known_loaders)
        # outputs and table of the default source; copies with other post-processing share them
        self._default_results: dict[str, Any] = {}

    def __repr__(self) -> str:
        count = "no" if self.classes is None else len(self.classes)
        return f"Predictor({type(self.model).__name__}, {count} {self.task.names_are})"

    def with_post_processing(self, post_processing: PostProcessing) -> "Predictor":
        """The same model with another temperature or other thresholds."""
        arguments.instance("post_processing", post_processing, PostProcessing)
        predictor = copy.copy(self)
        predictor._use(post_processing)
        return predictor

    def _use(self, post_processing: PostProcessing) -> None:
        self.post_processing = post_processing
        self._adjusted_table: PredictionTable | None = None
        self._answerer = Answerer(self.model, self.task, self.classes, post_processing)

    def with_priors(self, priors: PriorChoice | None) -> "Predictor":
        """The same model with its answers for other shares of the classes.

        See `Learner.adjust_priors`. What was tuned to the present shares is not in it.
        """
        adjusted: Priors | None = None
        if priors is not None:
            # of values there are none, and the task says so
            if not self._training_shares and self.task.gives_probabilities:
                raise ValueError(
                    "priors can't be adjusted: how many images each class had in training is not "
                    "known; train on ImageDataLoaders"
                )
            training = self.task.training_priors(self._training_shares, self._loss)
            adjusted = self.task.priors(priors, training)
        return self.with_post_processing(
            replace(self.post_processing, priors=adjusted, thresholds={}, coverage=None)
        )

    @property
    def temperature(self) -> float:
        """What outputs are divided by, see `Learner.calibrate`."""
        return self.post_processing.temperature

    @property
    def thresholds(self) -> dict[str, float]:
        """The probability from which on each class is predicted, for several labels an image."""
        classes = self._answerer.class_names()
        return dict(zip(classes, self.post_processing.thresholds_of(classes), strict=True))

    def _names(self, count: int) -> tuple[str, ...]:
        """The names of the classes, or else their numbers. count: of the model's outputs."""
        return self.classes or tuple(map(str, range(count)))

    # --- answers for items and files

    @overload
    def predict(
        self, item: "list[Any] | tuple[Any, ...]", *, batch_size: int = 64
    ) -> list[Answer]: ...
    @overload
    def predict(self, item: Any, *, batch_size: int = 64) -> Answer: ...
    def predict(self, item: Any, *, batch_size: int = 64) -> Answer | list[Answer]:
        """A `Prediction` for one item, or a list of them for a list or tuple of items.

        It is a `LabelsPrediction` where there may be several labels, a `ValuesPrediction` of a
        regression. For images an item is a path, a PIL image, an array [H, W, 3] or a tensor
        [3, H, W]. Raises ImageError for an image that can't be read, and for a folder.
        """
        arguments.whole_number("batch_size", batch_size, at_least=1)
        _refuse_other_collections(item)
        items = item if isinstance(item, list | tuple) else [item]
        self._answerer.class_names()  # raises where there are none, before images are read
        answers: list[Answer] = []
        try:
            for start in range(0, len(items), batch_size):
                answers += self._answers_for(items[start : start + batch_size])
        except ImageError as error:
            if not os.path.isdir(error.source):
                raise
            reason = f"it is a folder; predict_folder({error.source!r}) takes one"
            raise ImageError(error.source, reason) from None
        return answers if items is item else answers[0]

    @usual_modes()
    def predict_together(self, items: Sequence[Any]) -> Answer:
        """One answer to several images of the same thing, such as a product or a patient.

        It is the answer to the mean of the model's outputs, which with a linear head is that to the
        mean of the features. Its `unknown` is the mean of the images'. It has no `set`, as
        coverage is calibrated for single images.
        """
        images = arguments.sequence("items", items, "images of one thing")
        if not len(images):
            raise ValueError("items is empty; one answer needs at least one image")
        return self._answerer.answer_together(self.pipeline.inputs(images, self.runtime.device))

    def predict_folder(
        self, files: Files, *, batch_size: int = 64, progress: bool = True
    ) -> Iterator[FilePrediction]:
        """A `FilePrediction` for each image in and below a folder, or for each path, in order.

        They are made when they are asked for: `list(...)` keeps them all, `write_csv(rows, file)`
        and `write_jsonl` write them as they come, so that a million images take no more memory than
        a few. An image that can't be read has a row with its `error` and no label. Raises
        FileNotFoundError for a folder that is not there, ValueError for one without images.
        """
        self._answerer.class_names()  # raises where there are none, before images are read
        device = self.runtime.device

        def read(path: str) -> Tensor:
            inputs: Tensor = self.pipeline.inputs([path], torch.device("cpu"))
            return inputs

        def predict(inputs: Sequence[Tensor]) -> list[Answer]:
            return self._answerer.answers(torch.cat(list(inputs)).to(device))

        def to_row(path: str, answer: Any) -> FilePrediction:
            row = self.task.file_prediction(path, answer)
            return row._replace(unknown=getattr(answer, "unknown", None))

        return predict_files(
            files,
            read,
            predict,
            to_row,
            batch_size=batch_size,
            progress=progress,
        )

    @usual_modes()
    def probabilities(self, items: Sequence[Any]) -> Tensor:
        """Probabilities of one batch, float32 [len(items), classes] on the CPU.

        The values, of a regression.
        """
        if not len(arguments.sequence("items", items, "images, or what the model takes")):
            raise ValueError("items is empty; a batch has at least one")
        return self._answerer.probabilities(self.pipeline.inputs(items, self.runtime.device))

    @usual_modes()
    def _answers_for(self, items: Sequence[Any]) -> list[Answer]:
        return self._answerer.answers(self.pipeline.inputs(items, self.runtime.device))

    # --- passes over data

    def outputs(
        self,
        source: LoaderLike | Outputs | None = None,
        *,
        batch_size: int = 64,
        groups: Groups | None = None,
    ) -> Outputs:
        """What the model gives for every example, to be looked at in many ways.

        source: None is the validation data; a folder with one folder of images a class; a loader of
        ours such as `learner.data.train`, whose examples are all read, in order and without
        augmentation; or a torch DataLoader with targets, whose images are taken to be normalised
        and in size already, unless they are in uint8. Those of the validation data are kept.
        batch_size: of a folder or examples; a loader has its own. groups: of images of the same
        thing, which get one row, the mean of theirs; a list with the group of each example, a
        function of the path, or a regular expression that finds it in the path. Raises ValueError
        for a source without labels, or with those of other classes, and for a group of examples
        with different ones.
        """
        arguments.whole_number("batch_size", batch_size, at_least=1)
        checked_groups(groups)
        outputs = self._outputs_of_examples(source, batch_size)
        if groups is None:
            return outputs
        # of rows without paths a list alone says the groups, and the error says so
        names = groups_of(cast(Sequence[ImageSource], outputs.items), groups)
        return mean_over_groups(outputs, names, self.task, self._loss, self.runtime.device)

    def _outputs_of_examples(self, source: LoaderLike | Outputs | None, batch_size: int) -> Outputs:
        if isinstance(source, Outputs):
            return source
        if source is not None and source is not self._valid:
            return self._compute_outputs(self._reader.open(source, batch_size=batch_size))
        if "outputs" not in self._default_results:
            self._default_results["outputs"] = self._compute_outputs(self._reader.open(None))
        outputs: Outputs = self._default_results["outputs"]
        return outputs

    @usual_modes()
    def _compute_outputs(self, source: Source, view: int | None = None) -> Outputs:
        outputs = compute_outputs(
            self._model_for_pass(),
            source,
            self.pipeline,
            self.runtime,
            task=self.task,
            loss=self._loss,
            view=view,
        )
        self._answerer.check_class_count(outputs.outputs)
        return outputs

    def labelled_images(self, source: LoaderLike | None = None) -> LabelledImages:
        """Images and targets as `export` wants them for formats that compute less exactly.

        source: see `outputs`. Of many images, some that are evenly spread over all.
        """
        loader = evenly_spread(self._reader.open(source).loader, MOST_IMAGES)

        def batches() -> Batches:
            device = torch.device("cpu")
            for batch in loader.epoch(self.pipeline.seed, 0):
                prepared = self.pipeline.prepare(batch.to(device), None)
                yield prepared.inputs, prepared.targets

        return LabelledImages(batches)

    def predictions(
        self, source: LoaderLike | Outputs | None = None, *, groups: Groups | None = None
    ) -> PredictionTable:
        """A table of all examples, or of groups of them, and what can be counted and plotted of it.

        `report`, `top_losses`, `plot_top_losses`, `show_results`, `to_csv`; for one class an
        example, `Predictions`, also `plot_confusion_matrix`, `most_confused`, `calibration`; for
        several labels they are `LabelsPredictions`, for numbers `ValuesPredictions`. Rows are named
        by their groups, by their files, or else by their numbers in the data set or list. source,
        groups: see `outputs`; the table of the validation data is kept.
        """
        if groups is not None:
            source = self.outputs(source, groups=groups)
        if source is not None and source is not self._valid:
            return self.task.adjust(self._table(self.outputs(source)), self.post_processing)
        if "table" not in self._default_results:
            self._default_results["table"] = self._table(self.outputs())
        if self._adjusted_table is None:
            self._adjusted_table = self.task.adjust(
                self._default_results["table"], self.post_processing
            )
        return self._adjusted_table

    def plain_predictions(self) -> PredictionTable:
        """The table of the validation data without temperature and thresholds; it is kept."""
        return self.with_post_processing(PostProcessing()).predictions()

    def _table(self, outputs: Outputs) -> PredictionTable:
        """The table as the outputs say it, without post-processing."""
        return self.task.table(
            outputs.items,
            self._names(outputs.outputs.shape[1]),
            outputs.targets,
            outputs.outputs,
            outputs.losses,
            image=outputs.image,
        )

    @usual_modes()
    def evaluate(
        self, source: LoaderLike | Outputs | None = None, *, metrics: Metrics | None = None
    ) -> dict[str, float]:
        """`{"loss": ..., metric: ...}`. source: see `outputs`, or what `outputs` gave.

        metrics: names, functions or torchmetrics objects, see `create_metrics`; None: those that
        the predictor was made with, or else those that suit the task. They count what `predict`
        answers at the present priors, but at the thresholds that are usual; the loss is that of the
        outputs as training computes it.
        """
        measured = self._fresh_metrics(metrics)
        if isinstance(source, Outputs):
            device = self.runtime.device
            adjusted = self._answerer.shifted(source.outputs.to(device))
            update_metrics(measured, adjusted, source.targets.to(device))
            return {"loss": source.loss, **computed(measured, device)}
        loader = self._valid
        if source is not None and source is not self._valid:
            loader = self._reader.open(source).loader
        if loader is None:
            raise ValueError("there is no validation data; pass DataLoaders(train, valid)")
        with together("validate()"), reading(loader):
            return evaluate(
                self._model_for_pass(),
                loader,
                self.pipeline,
                self.runtime,
                loss=self._loss,
                metrics=measured,
                adjust=None if self.post_processing.priors is None else self._answerer.shifted,
                classes=self.classes,
            )

    def _fresh_metrics(self, metrics: Metrics | None) -> dict[str, Any]:
        """Metrics that nobody else counts with."""
        if metrics is None and isinstance(self._metrics, Mapping):
            return copy.deepcopy(dict(self._metrics))
        class_count = None if self.classes is None else len(self.classes)
        wanted = self._metrics if metrics is None else metrics
        if wanted is None:
            wanted = self.task.default_metrics
        return create_metrics(wanted, class_count, self.runtime.device, self.task, loss=self._loss)

    def tta(self, views: int = 4, source: LoaderLike | None = None) -> PredictionTable:
        """Test-time augmentation: mean probabilities, of a regression values, over the usual view
        of each example and `views` random ones, as a table like that of `predictions`.

        The temperature is not in it: a mean of views is less sure already. Raises ValueError for
        data without augmentation, whose views are all the same.
        """
        arguments.whole_number("views", views, at_least=1)
        opened = self._reader.open(source)
        self._check_views(opened)
        results = [self._compute_outputs(opened, view) for view in (None, *range(views))]
        mean = mean_over_views(results, self.task, self._loss, self.runtime.device)
        without_temperature = replace(self.post_processing, temperature=1.0)
        return self.task.adjust(self._table(mean), without_temperature)

    def _check_views(self, source: Source) -> None:
        are_images = isinstance(self.pipeline, ImagePipeline | ImageDataLoaders)
        if are_images and not isinstance(source.loader, InOrder):
            raise ValueError(
                "random views are drawn by the images' numbers, which a torch DataLoader does "
                "not give; take a loader of ImageDataLoaders, such as learner.data.valid"
            )
        if not self.pipeline.has_views:
            raise ValueError(
                f"this {type(self.pipeline).__name__} has no augmentation, so that all views of "
                "an example are the same; pass augment= to ImageDataLoaders, or override "
                "DataLoaders.prepare"
            )

    def features(self, source: LoaderLike | None = None) -> Features:
        """What the backbone makes of each example, pooled: `.values` [N, F], `.targets`, `.items`.

        source: see `outputs`; it needs no labels. Raises ValueError for a model without a submodule
        "backbone".
        """
        return self._features(self._reader.open(source, labelled=False), {})

    @usual_modes()
    def familiarity(self, train: EpochLoader) -> Familiarity | None:
        """What tells strange images, by the validation data and some of the training data.

        None for a model that has neither classes nor a submodule "backbone".
        """
        if self._valid is None:
            raise ValueError("there is no validation data; pass DataLoaders(train, valid)")
        known = epoch_loader("train", train)
        return fit_familiarity(
            self._model_for_pass(), known, self._valid, self.pipeline, self.runtime, self.task
        )

    @usual_modes()
    def _features(self, source: Source, weights: Mapping[str, Tensor]) -> Features:
        return compute_features(
            self._model_for_pass(), source, self.pipeline, self.runtime, weights=weights
        )

    def suspicious_labels(
        self, source: LoaderLike | None = None, *, count: int = 20
    ) -> SuspiciousLabels:
        """Labels that the model, which must not have learned from them, disagrees with confidently.

        source: see `outputs`. Raises ValueError for another task than one class per example.
        """
        self._check_exclusive()
        outputs = self.outputs(source)
        probabilities = self.task.activation(outputs.outputs)
        return suspicious_labels(
            probabilities.numpy(),
            outputs.targets.numpy(),
            outputs.items,
            self._names(probabilities.shape[1]),
            count,
            outputs.image,
        )

    def suspicious_training_labels(
        self,
        count: int,
        source: LoaderLike,
        *,
        untrained_weights: Mapping[str, Tensor],
        groups: Sequence[str] | None = None,
    ) -> SuspiciousLabels:
        """Labels of training data that logistic regressions disagree with confidently.

        Each is fitted to four fifths of the examples and judges the others, over the features of
        the backbone with `untrained_weights`, which have not seen the labels; empty: the present
        ones. groups: of the examples, which are judged by other groups alone.
        """
        self._check_exclusive()
        opened = self._reader.open(source)
        features = self._features(opened, untrained_weights)
        classes = self._names(int(features.targets.max()) + 1)
        probabilities = cross_probabilities(
            features.values,
            features.targets,
            len(classes),
            seed=self.pipeline.seed,
            groups=groups,
        )
        targets = features.targets.numpy()
        return suspicious_labels(
            probabilities, targets, features.items, classes, count, opened.image
        )

    def _check_exclusive(self) -> None:
        if not self.task.exclusive:
            raise ValueError(
                "suspicious_labels() is for one class per example, this is "
                f"task={self.task.name!r}; predictions().top_losses() has what fits worst"
            )

    # --- where in an image

    @usual_modes()
    def activation_map(
        self, item: Any, target: str | int | None = None, *, layer: str | None = None
    ) -> ActivationMap:
        """Where in an image a class was seen (Grad-CAM): `.values` [H, W] in [0, 1], `.plot()`.

        item: as in `predict`. target: a class's name or number, None is the predicted one.
        layer: path of a module, None is the last one that has a map of the image; of several
        backbones the mean of their maps is shown. Needs captum: `pip install
        'finetune-vision[explain]'`.
        """
        # a view of its own: hooks must not be seen by another thread
        model = evaluation_view(self.model)
        inputs = self.pipeline.inputs([item], self.runtime.device)
        activated = self._answerer.probabilities(inputs)[0]
        classes = self._names(len(activated))
        has_probabilities = self.task.gives_probabilities
        number = int(activated.argmax()) if has_probabilities else 0
        if target is not None:
            number = _class_number(target, classes)

        def scores(outputs: Any) -> Tensor:
            return self.task.class_scores(main_output(outputs))

        values, layers = grad_cam_of_layers(model, inputs, number, scores, layer)
        image = self.pipeline.displayable(inputs.detach())[0]
        score = float(activated[number])
        return ActivationMap(
            values.numpy(),
            image,
            classes[number],
            score if has_probabilities else nan,
            ", ".join(layers),
            None if has_probabilities else score,
        )

    def _model_for_pass(self) -> nn.Module:
        """A view of its own for each pass, as norms are folded into convolutions while one runs."""
        return evaluation_view(self.model)


def _class_number(target: str | int, classes: tuple[str, ...]) -> int:
    if isinstance(target, str):
        if target not in classes:
            hint = did_you_mean(target, classes)
            raise ValueError(f"target={target!r} is no class; {hint}")
        return classes.index(target)
    return arguments.whole_number("target", target, at_least=0, at_most=len(classes) - 1)


def _checked_pipeline(pipeline: InputPipeline) -> InputPipeline:
    if not callable(getattr(pipeline, "inputs", None)) or isinstance(pipeline, type):
        shown = arguments.shown(pipeline)
        raise TypeError(f"pipeline must be DataLoaders or an ImagePipeline, got {shown}")
    return pipeline


def _refuse_other_collections(item: Any) -> None:
    """Raises TypeError for several items that are in no list, which would be taken for one."""
    is_column = hasattr(item, "iloc") or hasattr(item, "to_pylist")  # of pandas, of pyarrow
    is_file = hasattr(item, "read")  # which gives its lines one by one
    if is_column or (isinstance(item, Iterator | Set) and not is_file):
        raise TypeError(
            f"predict takes one item or a list of items, got a {type(item).__name__}; "
            "pass list(...) of it"
        )
