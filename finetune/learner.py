"""Learner: the facade people type in notebooks; long because it is signatures and docstrings."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune import distributed, export, lr_finder
from finetune.callbacks.history import History
from finetune.callbacks.progress import Progress
from finetune.data.loaders import DataLoaders
from finetune.export import Format
from finetune.export.card import model_card
from finetune.inference.diagnosis import Diagnosis, Part
from finetune.inference.features import Features
from finetune.inference.files import FilePrediction, Files
from finetune.inference.predictor import Predictor
from finetune.interpret.activation import ActivationMap
from finetune.interpret.losses import plot_losses
from finetune.interpret.movement import Moved, plot_movement
from finetune.interpret.rates import plot_rates
from finetune.interpret.suspicious import SuspiciousLabels
from finetune.interpret.timeline import Span
from finetune.metrics import Metrics, create_metrics
from finetune.models.group_values import LearningRates, PerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.models.normalisation import NormPolicy
from finetune.models.splitting import Split
from finetune.optim.factories import adamw
from finetune.optim.group_optimizer import GroupOptimizer, OptimizerChoice
from finetune.optim.schedules import Schedule
from finetune.randomness import isolated
from finetune.training import plan as plans
from finetune.training import tables
from finetune.training.evaluation import evaluate
from finetune.training.events import Callback
from finetune.training.phase import Plan
from finetune.training.record import training_record
from finetune.training.runtime.modules import eval_mode
from finetune.training.runtime.runtime import PrecisionChoice, Runtime, choose_runtime
from finetune.training.settings import StepSettings
from finetune.training.setup import Loss, Setup
from finetune.training.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_RECORDED = ("finetune-vision", "torch", "torchvision", "timm")


class Learner:
    """A model, data, an optimizer over layer groups, and the plans to train them.

    model: any module; a `Sequential(backbone, head)` splits itself into two layer groups.
    loss: (outputs, targets) -> scalar mean. optimizer: a torch optimizer class or a partial of one,
    or one per group, see `GroupOptimizer`; weight_decay: one value, or one per group.
    metrics: names, functions (outputs, targets) -> number, or torchmetrics objects, or a mapping
    of names to them.
    split: where layer groups begin, see `split_model`. norm: what normalisation layers do, see
    `LayerGroup`. device, precision: see `choose_runtime`; runtime: says both and more, and is then
    never measured or changed. accumulate: batches per update. clip_norm: largest gradient norm.
    mixup, cutmix: alpha of the Beta distribution by which each training image is mixed with
    another, targets likewise, 0 for none; with both, each batch takes one of them. Images whose
    kept features train the head are not mixed. label_smoothing: of the training loss, for
    cross-entropy; validation's is the plain one. ema: decay, such as 0.999, of an average of the
    weights, which validation sees and which the model has whenever no fit runs; `resume` goes on
    with the weights themselves. callbacks: for every fit. progress: print bar and table.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> pairs = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    >>> data = DataLoaders(DataLoader(pairs, 16, shuffle=True), DataLoader(pairs, 64))
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> learner = Learner(data, model, loss=nn.functional.cross_entropy, progress=False)
    >>> learner.fine_tune(2, base_lr=1e-2)
    >>> [(row.phase, row.epoch) for row in learner.history.epochs]
    [('frozen', 0), ('unfrozen', 0), ('unfrozen', 1)]
    """

    def __init__(
        self,
        data: DataLoaders,
        model: nn.Module,
        *,
        loss: Loss,
        optimizer: OptimizerChoice = adamw,
        metrics: Metrics = (),
        split: Split = None,
        norm: NormPolicy | Mapping[str, NormPolicy] | None = None,
        weight_decay: PerGroup[float] | None = None,
        device: str | torch.device | None = None,
        precision: PrecisionChoice = "auto",
        runtime: Runtime | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
        ema: float | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        if runtime is None:
            runtime = choose_runtime(device, precision).suited_to(model)
        elif device is not None or precision != "auto":
            raise ValueError("runtime= says device and precision; leave device= and precision= out")
        runtime.place(model)
        if isinstance(loss, nn.Module):
            loss.to(runtime.device)
        groups = LayerGroups.from_model(model, split, norm=norm)
        classes = None if data.classes is None else len(data.classes)
        setup = Setup(
            model=model,
            data=data,
            loss=loss,
            metrics=create_metrics(metrics, classes, runtime.device, data.task),
            optimizer=GroupOptimizer(groups, optimizer, weight_decay=weight_decay),
            runtime=runtime,
            settings=StepSettings(accumulate, clip_norm, mixup, cutmix, label_smoothing, ema),
            scaler=runtime.gradient_scaler(),
        )
        self.history = History()
        self.progress = progress
        self.trainer = Trainer(setup, [self.history, *callbacks])
        self._diagnosis = Diagnosis(self.trainer, self.history)

    def __repr__(self) -> str:
        groups = ", ".join(self.layer_groups.names)
        return f"Learner({type(self.model).__name__} with groups {groups}; {self.history})"

    @property
    def data(self) -> DataLoaders:
        return self.trainer.setup.data

    @property
    def model(self) -> nn.Module:
        return self.trainer.setup.model

    @property
    def layer_groups(self) -> LayerGroups:
        return self.trainer.setup.optimizer.groups

    @property
    def optimizer(self) -> GroupOptimizer:
        return self.trainer.setup.optimizer

    # --- layer groups

    def freeze(self) -> None:
        """Freezes all groups but the last. Raises ValueError if that is the only one."""
        if len(self.layer_groups) < 2:
            raise ValueError("there is one layer group only, so nothing can be frozen; pass split=")
        self.layer_groups.freeze_to(len(self.layer_groups) - 1)

    def freeze_to(self, count: int) -> None:
        """Freezes the first `count` groups, unfreezes the others; negative counts from the end."""
        self.layer_groups.freeze_to(count)

    def unfreeze(self) -> None:
        """Unfreezes everything."""
        self.layer_groups.freeze_to(0)

    # --- training

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        *,
        freeze_epochs: int | None = None,
        freeze_views: int | None = None,
        lr_mult: float | None = None,
        layer_decay: float | None = None,
        pct_start: float = 0.3,
        div: float = 5.0,
        cache_features: bool = True,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """Trains the new head, then everything with lower rates for earlier layers.

        This is the call for a pretrained backbone with a new head; `fit_one_cycle` is for a model
        whose head is trained already. The frozen phase peaks at `base_lr`, the second one at
        `base_lr / 2` for the head down to `base_lr / 2 / lr_mult` for the first group.
        lr_mult: None is 100 for up to 2 epochs and 10 for more: early layers need time to move.
        layer_decay: in its place, each group has this share of the next one's rate, see
        `LayerDecay`; for `split="layers"`.
        freeze_epochs: None is 1 epoch; or, where the frozen backbone need not run in each of them
        (images, see cache_features), 4 over the view of validation, so without
        augmentation, with rates that come down again: they take as long and end better. A number is
        that many epochs whose rates rise to the end, as in fastai.
        freeze_views: how many views of each image the frozen phase goes round: 1 is the one of
        validation, k > 1 are k random ones, None draws new ones in every epoch. cache_features: the
        frozen backbone runs once a view, and the head trains on its kept outputs, so that with few
        views `freeze_epochs=10` costs little more than 1; False runs it in every epoch.
        checkpoint: a file that is written as the run goes; the same call continues from it.
        Differs from fastai: a frozen group's BatchNorm stays in eval mode, as does a pretrained
        backbone's afterwards (`norm="train"` restores the other way); optimizer state is kept; and
        freeze_epochs and lr_mult, as above.
        Raises ValueError for a model with one group only.
        """
        plan = self._fine_tune_plan(
            epochs, base_lr, freeze_epochs, freeze_views, lr_mult, layer_decay, pct_start, div,
            cache_features,
        )  # fmt: skip
        self.fit_plan(
            plan, cache_features=cache_features, callbacks=callbacks, checkpoint=checkpoint
        )

    def _fine_tune_plan(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        freeze_epochs: int | None = None,
        freeze_views: int | None = None,
        lr_mult: float | None = None,
        layer_decay: float | None = None,
        pct_start: float = 0.3,
        div: float = 5.0,
        cache_features: bool = True,
    ) -> Plan:
        if freeze_epochs is None and not (cache_features and self.trainer.can_keep_features()):
            freeze_epochs = 1
        return plans.fine_tune_plan(
            self.layer_groups, epochs, base_lr=base_lr, freeze_epochs=freeze_epochs,
            freeze_views=freeze_views, lr_mult=lr_mult, layer_decay=layer_decay,
            pct_start=pct_start, div=div,
        )  # fmt: skip

    def fit_one_cycle(
        self,
        epochs: int,
        lr: LearningRates = 1e-3,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """One cycle: `lr / div -> lr -> lr / div_final`, peak at `pct_start`; momentum opposite,
        0.95 -> 0.85 -> 0.95, for every optimizer that has one, plain SGD included.

        lr: a number, `slice(lo, hi)`, `slice(hi)` or one rate per group, see `LayerGroups.spread`.
        """
        plan = plans.one_cycle_plan(
            self.layer_groups, epochs, lr, div=div, div_final=div_final, pct_start=pct_start
        )
        self.fit_plan(plan, callbacks=callbacks, checkpoint=checkpoint)

    def fit_flat_cos(
        self,
        epochs: int,
        lr: LearningRates = 1e-3,
        *,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """Constant rates until `pct_start`, then a cosine down to `lr / div_final`."""
        plan = plans.flat_cosine_plan(
            self.layer_groups, epochs, lr, div_final=div_final, pct_start=pct_start,
            momentum=self.optimizer.base_momentum,
        )  # fmt: skip
        self.fit_plan(plan, callbacks=callbacks, checkpoint=checkpoint)

    def fit_sgdr(
        self,
        cycles: int,
        cycle_epochs: int,
        lr: LearningRates = 1e-3,
        *,
        cycle_mult: int = 2,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """Cosine to zero with restarts; every cycle is `cycle_mult` times as long as the last."""
        plan = plans.restarts_plan(
            self.layer_groups, cycles, cycle_epochs, lr, cycle_mult=cycle_mult,
            momentum=self.optimizer.base_momentum,
        )  # fmt: skip
        self.fit_plan(plan, callbacks=callbacks, checkpoint=checkpoint)

    def fit(
        self,
        epochs: int,
        lr: LearningRates = 1e-3,
        *,
        peaks: Mapping[str, PerGroup[float]] | None = None,
        schedules: Mapping[str, PerGroup[Schedule]] | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """Constant learning rates, or any schedule for each hyper-parameter and group.

        peaks: other hyper-parameters: `{"weight_decay": {"head": 0.1, "*": 0.01}}`. schedules:
        multipliers of the peaks, functions of the progress in [0, 1], for all groups or by group:
        `{"lr": {"head": one_cycle(), "*": delayed(0.3, one_cycle())}}`.
        """
        plan = plans.fit_plan(
            self.layer_groups, epochs, lr, peaks=peaks, schedules=schedules,
            momentum=self.optimizer.base_momentum,
        )  # fmt: skip
        self.fit_plan(plan, callbacks=callbacks, checkpoint=checkpoint)

    def gradual_unfreeze(
        self,
        epochs_per_group: int = 1,
        base_lr: float = 2e-3,
        *,
        lr_mult: float = 100.0,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """The head alone, then one group more in each phase, until everything trains.

        Rates as in `fine_tune`. What is frozen runs once a view where its outputs can be kept.
        """
        plan = plans.gradual_unfreeze_plan(
            self.layer_groups, epochs_per_group=epochs_per_group, base_lr=base_lr, lr_mult=lr_mult
        )
        self.fit_plan(plan, callbacks=callbacks, checkpoint=checkpoint)

    def fit_plan(
        self,
        plan: Plan,
        *,
        cache_features: bool = True,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """Runs a plan: a tuple of phases. The other fits are plans, too.

        cache_features: where frozen layers come first, keep their outputs, see `fine_tune`.
        An interruption (Ctrl-C) takes effect after the running step; the learner stays usable, and
        `resume` or the same call with its checkpoint continues. Raises DivergenceError when the
        loss is no number, CheckpointError when the checkpoint belongs to another plan or model.
        """
        path = None if checkpoint is None else Path(checkpoint)
        shown = self._shown(callbacks)
        ran = self.trainer.start(plan, shown, path, cache_features=cache_features)
        if not ran and self.progress:
            print(f"{path}: this run has ended; its weights are loaded, nothing is left to do")

    def resume(
        self,
        *,
        cache_features: bool = True,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
    ) -> None:
        """Continues the run that was interrupted or stopped, here or before `save` and `load`."""
        path = None if checkpoint is None else Path(checkpoint)
        self.trainer.resume(self._shown(callbacks), path, cache_features=cache_features)

    def _shown(self, callbacks: Sequence[Callback]) -> list[Callback]:
        show = self.progress and distributed.rank() == 0
        return [*callbacks, Progress()] if show else list(callbacks)

    # --- results

    def validate(self) -> dict[str, float]:
        """`{"loss": ..., metric: ...}` on the validation data. Raises ValueError without any."""
        if self.data.valid is None:
            raise ValueError("there is no validation data; pass DataLoaders(train, valid)")
        with isolated(), eval_mode(self.model):  # in the middle of a fit, too
            return evaluate(self.trainer.setup, self.data.valid)

    def predict(self, item: Any) -> Any:
        """A `Prediction` (label, probability, probabilities by class); a list of them for a list.

        Of several labels an image, (labels, probabilities); of a regression, (values,).

        item: for images a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W].
        """
        return self.predictor().predict(item)

    def predict_folder(
        self, files: Files, *, batch_size: int = 64, progress: bool = True
    ) -> Iterator[FilePrediction]:
        """A `FilePrediction` for each image in and below a folder, or for each path, in order.

        Its fields are path, label, probability, probabilities and error. They are made when they
        are asked for: `list(...)` keeps them all, `write_csv(rows, file)` writes them as they come.
        An image that can't be read has an `error` and no label. Raises FileNotFoundError for a
        folder that is not there, ValueError for one without images.
        """
        return self.predictor().predict_folder(files, batch_size=batch_size, progress=progress)

    def predictor(self) -> Predictor:
        """The model with its preprocessing and classes, apart from data and optimizer."""
        if self.data.classes is None:
            raise ValueError("there are no class names to predict; pass DataLoaders(classes=[...])")
        return Predictor(
            self.model, self.data.classes, self.data.inputs,
            task=self.data.task, thresholds=self._diagnosis.thresholds,
            temperature=self._diagnosis.temperature,
        )  # fmt: skip

    def tune_thresholds(self) -> dict[str, float]:
        """For several labels an image: the probability from which on each class is predicted.

        They give the best F1 of each class on the validation data; `predict`, `predictions` and
        `export` use them until the weights change, `validate` does not. Raises ValueError for
        another task, or without validation data.
        """
        return self._diagnosis.tune_thresholds()

    @property
    def thresholds(self) -> dict[str, float] | None:
        """What `tune_thresholds` found; None before, and, with a warning, after more training."""
        return self._diagnosis.thresholds

    # --- where it fails

    def predictions(self, loader: Any = None) -> Any:
        """`Predictions`: a table over the validation data, or the loader's, and what can be counted
        and plotted of it: `report`, `plot_confusion_matrix`, `most_confused`, `to_csv`, ...

        loader: a torch DataLoader with targets, or one of ours such as `learner.data.train`, whose
        examples are all read, in order and without augmentation. A DataLoader's images are taken
        to be normalised and in size already, unless they are in uint8. Rows are named by their
        files, or else by their numbers in the data set or list. The table of the validation
        data is kept until the weights change: until a step is trained, or torch counts a change of
        a parameter or buffer. For several labels an image they are `LabelsPredictions`, for
        numbers `ValuesPredictions`, which have `report`, `top_losses`, `plot_top_losses`,
        `show_results` and `to_csv`. Raises ValueError for a loader without labels, or with those of
        other classes.
        """
        return self._diagnosis.predictions(loader)

    def show_results(self, count: int = 12) -> "Figure":
        """Validation images with what is predicted: mistakes first, then some that are right."""
        figure: Figure = self.predictions().show_results(count)
        return figure

    def tta(self, views: int = 4, loader: Any = None) -> Any:
        """Test-time augmentation: mean probabilities, of a regression values, over the usual view
        of each example and `views` random ones, as a table like that of `predictions`. Everything
        stays in eval mode, so BatchNorm statistics do not move.

        The temperature of `calibrate` is not in it: a mean of views is less sure already. Raises
        ValueError for data without augmentation, whose views are all the same.
        """
        return self._diagnosis.tta(views, loader)

    def calibrate(self) -> float:
        """Finds the temperature that makes the probabilities of the validation data likeliest, for
        `predict`, `predictions` and `export` to use until the weights change. Returns it.

        Above 1 the model was too sure of itself. Predicted classes stay as they are. See
        `Predictions.temperature`; `predictions().plot_calibration()` shows what it does. Raises
        ValueError for another task than one class an example.
        """
        return self._diagnosis.calibrate()

    def features(self, loader: Any = None) -> Features:
        """What the backbone makes of each example, pooled: `.values` [N, F], `.targets`, `.items`.

        loader: as in `predictions`. Raises ValueError for a model without a submodule "backbone".
        """
        return self._diagnosis.features(loader)

    def suspicious_labels(self, count: int = 20, *, of: Part = "train") -> SuspiciousLabels:
        """Labels that are probably wrong, the surest first; `.plot()` shows the images.

        They are judged out of sample: those of validation by the model's predictions, those of
        training by logistic regressions, each on the other four fifths, over the features of the
        backbone as it was before the first fit, so that nothing has seen the label it judges.
        There are fewer than `count` where fewer are suspicious.
        """
        return self._diagnosis.suspicious_labels(count, of)

    def activation_map(
        self, item: Any, target: str | int | None = None, *, layer: str | None = None
    ) -> ActivationMap:
        """Where in an image a class was seen (Grad-CAM): `.values` [H, W] in [0, 1], `.plot()`.

        item: as in `predict`. target: a class's name or number, None is the predicted one.
        layer: path of a module, None is the last one that has a map of the image. Needs captum:
        `pip install 'finetune-vision[explain]'`.
        """
        return self._diagnosis.activation_map(item, target, layer)

    # --- images and the rate finder

    def plot_plan(self, plan: Plan | int | None = None) -> "Figure":
        """Learning rate and momentum of every layer group over all phases, before training.

        plan: a plan, or n for what `fine_tune(n)` would run. None: the plan of the present or last
        run, and before the first one that of `fine_tune(1)`.
        """
        if plan is None:
            plan = 1 if self.trainer.run is None else self.trainer.run.plan
        if isinstance(plan, int):
            plan = self._fine_tune_plan(plan)
        plans.check(plan, self.layer_groups)
        spans, rates, momenta = tables.plan_table(plan, self.trainer.setup.steps_per_epoch)
        has_momentum = self.optimizer.has_momentum
        return plot_rates(spans, self.layer_groups.names, rates, momenta if has_momentum else ())

    def plot_rates(self) -> "Figure":
        """Learning rate and momentum of every layer group over all steps so far."""
        rows = self.history.steps
        momenta = [row.momentum for row in rows if row.momentum]
        rates = [row.lr for row in rows]
        return plot_rates(self._spans(), self.layer_groups.names, rates, momenta)

    def plot_losses(self) -> "Figure":
        """Training loss of every step so far, and what validation gave after every epoch."""
        spans, rows = self._spans(), self.history.steps
        valid = tables.valid_points(spans, rows, self.history.epochs)
        return plot_losses(spans, [row.loss for row in rows], valid)

    def _spans(self) -> list[Span]:
        return tables.step_spans(self.history.steps, self.trainer.setup.steps_per_epoch)

    def movement(self) -> list[Moved]:
        """How far the parameters of each module are from where they were before the first fit.

        `row.distance` is `|w - w0| / |w0|`, see `Moved`. Raises ValueError before the first fit.
        """
        return self.trainer.origin.movement()

    def plot_movement(self) -> "Figure":
        """Which layers moved: `movement()` as bars along the depth; of a block if they are many."""
        return plot_movement(self.movement(), self.layer_groups.names)

    def lr_find(
        self,
        *,
        factors: LearningRates | None = None,
        group: str | None = None,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        steps: int = 100,
        stop_factor: float = 4.0,
    ) -> lr_finder.LearningRateCurve:
        """A learning-rate range test on copies; for `fine_tune(base_lr=...)` pass `.suggestion`.

        That is a rate of the head alone at first, so `freeze()` before, or say `group="head"`.
        factors: how the rates of the groups relate, in any way of `LayerGroups.spread`; the curve
        is over the largest of those that train. None: as the rates in force relate, that is all
        alike in a new learner, and as the last fit spread them. group: only this one's rate moves,
        all others are 0.
        Nothing changes here: not the weights, buffers, optimizer, random numbers, loaders or files.
        """
        return lr_finder.range_test(
            self.trainer.setup,
            factors=factors,
            group=group,
            start_lr=start_lr,
            end_lr=end_lr,
            steps=steps,
            stop_factor=stop_factor,
        )

    # --- files

    def save(self, path: str | Path) -> None:
        """Writes everything that affects the next step into one file, atomically."""
        self.trainer.save(Path(path))

    def load(self, path: str | Path) -> None:
        """Takes back what `save` wrote; an error leaves the learner as it was.

        Raises FileNotFoundError, or CheckpointError for a file that is truncated, of another model,
        or of a newer version.
        """
        self.trainer.load(Path(path))

    def export(
        self,
        folder: str | Path,
        format: Format | Sequence[Format] = "safetensors",
        *,
        overwrite: bool = False,
    ) -> None:
        """Model, classes and preprocessing as a folder that needs no finetune; a model card in it.

        format: one or several of "safetensors" (weights, for `load_learner`, and for a model made
        of timm's or torchvision's backbone and torch's head; with `head="linear"`, but for a
        regression, for `timm.create_model(..., checkpoint_path=...)` alone, where timm's own
        classifier is such a layer), "onnx" and "torch_export" (graphs that take RGB in [0, 1] and
        give probabilities; each is read back and compared with the model). The folder's README.md
        shows how to use each.
        overwrite: replace an exported model; a folder with other files in it stays.
        Raises FileExistsError for a folder that is there already, ValueError for a model that was
        not built by `vision_learner` (save `learner.model.state_dict()` then), RuntimeError for one
        that can't be made a graph.
        """
        formats = export.check_formats(format)
        if distributed.rank():
            return
        description = self._description(formats)
        card = model_card(description, self.model.source())  # type: ignore[operator]
        export.write(
            Path(folder).expanduser().absolute(),
            self.model,
            description,
            formats=formats,
            card=card,
            overwrite=overwrite,
        )

    def _description(self, formats: Sequence[Format]) -> dict[str, Any]:
        architecture = getattr(self.model, "architecture", None)
        inputs = self.data.describe_inputs()
        if architecture is None or inputs is None or self.data.classes is None:
            raise ValueError(
                "only a learner made by vision_learner knows how to rebuild its model; "
                "save learner.model.state_dict() and rebuild the model in your own code"
            )
        history, thresholds = self.history, self._diagnosis.thresholds
        return {
            "architecture": architecture.to_dict(),
            "classes": list(self.data.classes),
            "task": self.data.task,
            **({} if thresholds is None else {"thresholds": thresholds}),
            "preprocessing": inputs,
            "temperature": self._diagnosis.temperature,
            "formats": export.describe_formats(formats, inputs["image_size"], self.data.task),
            **training_record(self.trainer.setup, history.steps, history.epochs),
            "versions": {name: version(name) for name in _RECORDED},
        }
