"""Learner: the facade people type in notebooks; long because it is signatures and docstrings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

from torch import nn
from typing_extensions import Unpack

from finetune import arguments, distributed, export, lr_finder, turns
from finetune.callbacks.history import History
from finetune.callbacks.progress import Progress
from finetune.callbacks.work_bar import work_bar
from finetune.cleaning.candidates import candidates
from finetune.cleaning.session import Session
from finetune.cleaning.widget import create_widget
from finetune.data.groups import Groups
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.loaders import DataLoaders, IndexedLoader
from finetune.dictionary import answers_other_words
from finetune.distributed.sharding import is_sharded
from finetune.distributed.together import by_first, together
from finetune.export import FormatName, LabelledImages, hub
from finetune.export.card import model_card
from finetune.export.description import ModelDescription
from finetune.export.onnx import check_opset
from finetune.inference.features import Features
from finetune.inference.files import Files
from finetune.inference.predictor import LoaderLike, Predictor
from finetune.interpret.activation import ActivationMap
from finetune.interpret.losses import plot_losses
from finetune.interpret.movement import Moved, plot_movement
from finetune.interpret.prediction_table import PredictionTable
from finetune.interpret.rates import plot_rates
from finetune.interpret.suspicious import SuspiciousLabels
from finetune.interpret.timeline import Span
from finetune.learner_options import FitOptions, FitSettings, LearnerOptions, LearnerSettings
from finetune.metrics import Metrics, create_metrics
from finetune.models.classifier import ImageClassifier
from finetune.models.finite import broken_in_words, non_finite_weights
from finetune.models.group_values import LearningRates, PerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.models.loss_group import placed
from finetune.models.splitting import Split
from finetune.models.wrappers import check_not_wrapped
from finetune.modes import check_trainable, usual_modes
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.optim.schedules import Schedule
from finetune.options import takes_options
from finetune.probe.linear_probe import FOLDS, LinearProbe
from finetune.tasks import Answer, FilePrediction, Loss, PriorChoice
from finetune.training import plan as plans
from finetune.training import tables
from finetune.training.budget import Budget
from finetune.training.events import Callback
from finetune.training.phase import Plan
from finetune.training.plan import FineTune, PlanRequest
from finetune.training.record import training_record
from finetune.training.runtime.runtime import Runtime
from finetune.training.setup import Setup
from finetune.training.soup import Ingredient, Soup, of_checkpoint, of_exported, of_setup
from finetune.training.trainer import Trainer
from finetune.wording import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part: TypeAlias = Literal["train", "valid"]

_RECORDED_PACKAGES = ("finetune-vision", "torch", "torchvision", "timm")


@answers_other_words("Learner")
class Learner:
    """A model, data, an optimizer over layer groups, and the plans to train them.

    model: any module; a `Sequential(backbone, head)` splits itself into two layer groups.
    loss: (outputs, targets) -> scalar, a mean over the examples; of torch's losses it is known what
    they are a mean over, and which are sums; parameters of its own (ArcFace) train with the head's
    rates. metrics: names, functions (outputs, targets) -> number, or torchmetrics objects, or a
    mapping of names to them, see `create_metrics`. split: where layer groups begin, see
    `split_model`. The other options are those of `LearnerSettings`: optimizer, weight_decay, norm,
    device, precision, runtime, accumulate, clip_norm, mixup, cutmix, label_smoothing, ema,
    callbacks, progress.

    >>> import torch
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

    @usual_modes()
    @takes_options(LearnerSettings)
    def __init__(
        self,
        data: DataLoaders,
        model: nn.Module,
        *,
        loss: Loss,
        metrics: Metrics = (),
        split: Split = None,
        **options: Unpack[LearnerOptions],
    ) -> None:
        settings = LearnerSettings(**options)
        arguments.instance("data", data, DataLoaders, "such as DataLoaders(train, valid)")
        arguments.instance("model", model, nn.Module)
        check_not_wrapped(model)
        arguments.function("loss", loss, "(outputs, targets) -> scalar")
        runtime = settings.runtime_for(model)
        distributed.join(runtime.device)
        if runtime.sharding is None or distributed.is_first():
            check_trainable(model)  # the others may wait for weights of the first one
        runtime.place(model)
        loss = placed(loss, runtime.device)
        groups = LayerGroups.from_model(model, split, norm=settings.norm)
        groups.add_loss(loss)
        class_count = None if data.classes is None else len(data.classes)
        setup = Setup(
            model=model,
            data=data,
            loss=loss,
            metrics=create_metrics(metrics, class_count, runtime.device, data.task, loss=loss),
            optimizer=GroupOptimizer(
                groups, settings.optimizer, weight_decay=settings.weight_decay
            ),
            runtime=runtime,
            settings=settings.step,
            scaler=runtime.gradient_scaler(),
        )
        self.history = History()
        self.progress = settings.progress
        self.trainer = Trainer(setup, [self.history, *settings.callbacks])
        self._predictor: Predictor | None = None
        self._predictor_is_of: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        groups = ", ".join(self.trainer.setup.optimizer.groups.names)
        return f"Learner({type(self.model).__name__} with groups {groups}; {self.history!r})"

    @property
    def data(self) -> DataLoaders:
        """The data that the learner trains on; assign others to go on with them.

        With images of another size this is progressive resizing:

            learner.fine_tune(3)
            learner.data = ImageDataLoaders.from_folder("photos", image_size=224)
            learner.fine_tune(2)

        Weights and optimizer state stay, images are normalised for the backbone as before, and what
        `calibrate` and `tune_thresholds` fitted to the other images is given up, with a warning. An
        unfinished run can't be resumed with other data. Raises ValueError for data of other
        classes or another task, RuntimeError while a fit runs.
        """
        return self.trainer.setup.data

    @data.setter
    def data(self, data: DataLoaders) -> None:
        arguments.instance("data", data, DataLoaders, "such as DataLoaders(train, valid)")
        if isinstance(data, ImageDataLoaders) and isinstance(self.data, ImageDataLoaders):
            before = self.data.preprocessing
            data = data.for_backbone(before.image_size, before.mean, before.std)
        self.trainer.use_data(data)
        self._predictor = None

    @property
    def model(self) -> nn.Module:
        """The model, which trains in place."""
        return self.trainer.setup.model

    @property
    def runtime(self) -> Runtime:
        """On which device, in which precision and memory layout the model runs."""
        return self.trainer.setup.runtime

    @property
    def layer_groups(self) -> LayerGroups:
        """The layer groups of the model as it is now, see `LayerGroups.follow_model`."""
        self.trainer.follow_model()
        return self.trainer.setup.optimizer.groups

    @property
    def optimizer(self) -> GroupOptimizer:
        """The optimizers of all layer groups of the model as it is now, as one object."""
        self.trainer.follow_model()
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

    @takes_options()
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
        """Tries learning rates from low to high, on copies of the model and its optimizer.

        `fine_tune(base_lr=...)` takes the `.suggestion` of the curve. That is a rate of the head
        alone at first, so `freeze()` before, or say `group="head"`.
        factors: how the rates of the groups relate, in any way of `LayerGroups.spread`; the curve
        is over the largest of those that train. None: as the rates in force relate, that is all
        alike in a new learner, and as the last fit spread them. group: only this one's rate moves,
        all others are 0.
        Where only the head's rate moves, the groups before it are frozen, and run once for each
        image where their outputs can be kept: in the view of validation, as in `fine_tune`.
        A notebook draws the curve, and so does its `.plot()`.
        Nothing changes here: not the weights, buffers, optimizer, random numbers, loaders or files.
        """
        self.trainer.follow_model()
        shows_bar = self.progress and distributed.rank() == 0
        with together("lr_find()"), work_bar(shown=shows_bar) as tell:
            return lr_finder.range_test(
                self.trainer.setup,
                factors=factors,
                group=group,
                start_lr=start_lr,
                end_lr=end_lr,
                steps=steps,
                stop_factor=stop_factor,
                tell=tell,
            )

    def probe(
        self, *, views: int = 1, folds: int = FOLDS, callbacks: Sequence[Callback] = ()
    ) -> LinearProbe:
        """Makes the head the best linear layer on the frozen features, in a second or two.

        Nothing is trained by gradient steps: a softmax regression (logistic regressions for several
        labels, a ridge regression for numbers) is solved to its optimum, the strength of its L2
        penalty chosen by cross-validation on the training images alone. It is the fastest model,
        the baseline for every other one, and a start for `fine_tune(..., freeze_epochs=0)`. A head
        that is no single linear layer is replaced by one without dropout.
        views: of each image: 1 is the view of validation, k > 1 are k random ones. folds: of the
        cross-validation. Class weights of the loss count. The same call gives the same head. The
        history has a row for it, of phase "probe".
        Raises ValueError for data without numbered examples, and for a model without a submodule
        "head" that gets pooled features.
        Source: linear probing before fine-tuning, Kumar et al. 2022, https://arxiv.org/abs/2202.10054
        """
        arguments.whole_number("views", views, at_least=1)
        arguments.whole_number("folds", folds, at_least=2)
        settings = FitSettings(callbacks=callbacks)
        callbacks = self._with_progress(settings.callbacks)
        return self.trainer.probe(callbacks, views=views, folds=folds)

    @takes_options(FitSettings)
    def fine_tune(
        self,
        epochs: int | None = None,
        base_lr: float = 2e-3,
        *,
        minutes: float | None = None,
        freeze_epochs: int | None = None,
        freeze_views: int | None = None,
        lr_mult: float | None = None,
        layer_decay: float | None = None,
        unfreeze: str | None = None,
        pct_start: float = 0.3,
        div: float = 5.0,
        interpolate: bool | None = None,
        **options: Unpack[FitOptions],
    ) -> None:
        """Trains the new head, then more of the model, with lower rates for earlier layers.

        This is the call for a pretrained backbone with a new head; `fit_one_cycle` is for a model
        whose head is trained already. Where the head is one linear layer and the frozen backbone
        need run only once (images, see cache_features), the head becomes the best one there is for
        the frozen features at once, as by `probe`; else it takes steps with rates up to `base_lr`.
        The second phase peaks at `base_lr / 2` for the head down to `base_lr / 2 / lr_mult` for the
        first group; after a probe the head has the rate of the group below it, since it is at its
        optimum, and where validation likes the probe better than the end, a point between is taken.
        epochs: of the second phase. minutes: in their place, the time for all of it, validation
        included. Some batches are timed, and the longest plan that is over by then is chosen: the
        head alone, up to 4 epochs of the later half of the body on two views of each image, or 4
        and more of everything. A run that goes on from its checkpoint keeps its plan.
        lr_mult: None is 100 for up to 2 epochs and 10 for more: early layers need time to move.
        layer_decay: in its place, each group has this share of the next one's rate, see
        `LayerDecay`; for `split="layers"`.
        unfreeze: what trains in the second phase: "all", or a group's name, such as "body_2", for
        this group and those above it. None is "all" for more than 2 epochs, or where you give
        lr_mult or layer_decay; else the earlier half of the body stays frozen, which hardly moves
        in an epoch or two and takes a third of their time. After the run nothing is frozen.
        freeze_epochs: None is a probe, as above. For another head it is 1 epoch; or, where the
        frozen backbone need run only once, 4 over the view of validation, so without augmentation,
        with rates that come down again: they take as long and end better. A number is that many
        epochs whose rates rise to the end, as in fastai.
        freeze_views: how many views of each image the frozen phase goes round: 1 is the one of
        validation, k > 1 are k random ones, None draws new ones in every epoch. With few views
        `freeze_epochs=10` costs little more than 1, since the frozen backbone runs once a view.
        interpolate: at the end the model takes the weights that validation likes best of those at
        the end, those before the second phase, and three points between: the lowest loss of those
        whose first metric is below neither end. So training that harms is undone, at the price of
        four more validations. None does so after a probe, if the end is worse than the probe; True
        always, False never.
        The optimizer's state stays that of the end. A fit that a callback stops early keeps what it
        has. Source: WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903
        options: callbacks, checkpoint and cache_features, see `FitSettings`.
        Differs from fastai: a frozen group's BatchNorm stays in eval mode, as does a pretrained
        backbone's afterwards (`norm="train"` restores the other way); optimizer state is kept; and
        freeze_epochs, lr_mult and unfreeze, as above.
        Raises ValueError for a model with one group only, and for epochs and minutes at once.
        """
        if (epochs is None) == (minutes is None):
            raise ValueError(
                f"pass epochs or minutes, the one or the other; got epochs={epochs} and "
                f"minutes={minutes}"
            )
        request = FineTune(
            1 if epochs is None else epochs,
            base_lr,
            freeze_epochs=freeze_epochs,
            freeze_views=freeze_views,
            lr_mult=lr_mult,
            layer_decay=layer_decay,
            unfreeze=unfreeze,
            pct_start=pct_start,
            div=div,
            interpolate=interpolate,
        )
        if minutes is None:
            self._run(request, **options)
            return
        settings = FitSettings(**options)
        plan = self.trainer.plan_within(
            Budget(minutes, request),
            settings.checkpoint_path,
            cache_features=settings.cache_features,
        )
        if self.progress and distributed.is_first():
            epochs_of_phases = ", ".join(f"{phase.name} {phase.epochs}" for phase in plan)
            print(f"epochs that {minutes:g} minutes allow: {epochs_of_phases}")
        self._run(plan, **options)

    @takes_options(FitSettings)
    def fit_one_cycle(
        self,
        epochs: int,
        lr: LearningRates = 1e-3,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        **options: Unpack[FitOptions],
    ) -> None:
        """Trains with one cycle of the learning rate: up to a peak, then down almost to zero.

        It goes `lr / div -> lr -> lr / div_final`, with the peak at `pct_start` of all steps.
        Momentum goes the other way, 0.95 -> 0.85 -> 0.95, for every optimizer that has one, plain
        SGD included.
        lr: a number, `slice(lo, hi)`, `slice(hi)` or one rate per group, see `LayerGroups.spread`.
        options: see `FitSettings`.
        """
        plan = plans.one_cycle_plan(
            self.layer_groups, epochs, lr, div=div, div_final=div_final, pct_start=pct_start
        )
        self._run(plan, **options)

    @takes_options(FitSettings)
    def fit_flat_cos(
        self,
        epochs: int,
        lr: LearningRates = 1e-3,
        *,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        **options: Unpack[FitOptions],
    ) -> None:
        """Trains with constant rates until `pct_start`, then along a cosine to `lr / div_final`.

        options: see `FitSettings`.
        """
        plan = plans.flat_cosine_plan(
            self.layer_groups,
            epochs,
            lr,
            div_final=div_final,
            pct_start=pct_start,
            momentum=self.optimizer.base_momentum,
        )
        self._run(plan, **options)

    @takes_options(FitSettings)
    def fit_sgdr(
        self,
        cycles: int,
        cycle_epochs: int,
        lr: LearningRates = 1e-3,
        *,
        cycle_mult: int = 2,
        **options: Unpack[FitOptions],
    ) -> None:
        """Trains in cycles: along a cosine to zero, then again from `lr` (warm restarts).

        Every cycle is `cycle_mult` times as long as the last; the first has `cycle_epochs` epochs.

        options: see `FitSettings`.
        """
        plan = plans.restarts_plan(
            self.layer_groups,
            cycles,
            cycle_epochs,
            lr,
            cycle_mult=cycle_mult,
            momentum=self.optimizer.base_momentum,
        )
        self._run(plan, **options)

    @takes_options(FitSettings)
    def fit(
        self,
        epochs: int,
        lr: LearningRates = 1e-3,
        *,
        peaks: Mapping[str, PerGroup[float]] | None = None,
        schedules: Mapping[str, PerGroup[Schedule]] | None = None,
        **options: Unpack[FitOptions],
    ) -> None:
        """Trains with constant learning rates, or any schedule for a hyper-parameter and group.

        peaks: other hyper-parameters: `{"weight_decay": {"head": 0.1, "*": 0.01}}`. schedules:
        multipliers of the peaks, functions of the progress in [0, 1], for all groups or by group:
        `{"lr": {"head": one_cycle(), "*": delayed(0.3, one_cycle())}}`. options: see `FitSettings`.
        """
        plan = plans.fit_plan(
            self.layer_groups,
            epochs,
            lr,
            peaks=peaks,
            schedules=schedules,
            momentum=self.optimizer.base_momentum,
        )
        self._run(plan, **options)

    @takes_options(FitSettings)
    def gradual_unfreeze(
        self,
        epochs_per_group: int = 1,
        base_lr: float = 2e-3,
        *,
        lr_mult: float = 100.0,
        **options: Unpack[FitOptions],
    ) -> None:
        """Trains the head alone, then one group more in each phase, until everything trains.

        Rates as in `fine_tune`. What is frozen runs once a view where its outputs can be kept.
        options: see `FitSettings`.
        """
        plan = plans.gradual_unfreeze_plan(
            self.layer_groups, epochs_per_group=epochs_per_group, base_lr=base_lr, lr_mult=lr_mult
        )
        self._run(plan, **options)

    @takes_options(FitSettings)
    def fit_plan(self, plan: Plan, **options: Unpack[FitOptions]) -> None:
        """Runs a plan: a tuple of phases. The other fits are plans, too.

        options: see `FitSettings`. An interruption (Ctrl-C) takes effect after the running step;
        the learner stays usable, and `resume` or the same call with its checkpoint continues.
        Raises DivergenceError at a non-finite loss, and CheckpointError when the checkpoint belongs
        to another plan or model.
        """
        self._run(plan, **options)

    def _run(self, request: PlanRequest, **options: Unpack[FitOptions]) -> None:
        settings = FitSettings(**options)
        path = settings.checkpoint_path
        has_run = self.trainer.start(
            request,
            self._with_progress(settings.callbacks),
            path,
            cache_features=settings.cache_features,
        )
        run = self.trainer.run
        if not has_run and self.progress and distributed.is_first() and run is not None:
            # "finished", or what stopped it
            print(f"{path}: this run {run.ended}; its weights are loaded, nothing is left to do")

    @takes_options(FitSettings)
    def resume(self, **options: Unpack[FitOptions]) -> None:
        """Continues the run that was interrupted or stopped, here or before `save` and `load`.

        options: see `FitSettings`.
        """
        settings = FitSettings(**options)
        self.trainer.resume(
            self._with_progress(settings.callbacks),
            settings.checkpoint_path,
            cache_features=settings.cache_features,
        )

    def soup(self, models: "Sequence[Learner | str | Path]") -> Soup:
        """Takes the mean of the weights of several trainings, of those that validation gains by.

        The best alone begins; the others follow, best first, and each stays that does not make
        validation worse: by the first metric, where equal by the loss. So the mean is never worse
        there than the best alone. It answers as fast as one model. Trainings that began with the
        same weights, such as one head fitted by `probe()`, gain most; those that have nothing in
        common are left out.
        models: learners, files that `save`, `checkpoint=` or `SaveBest` wrote, exported folders,
        and models on the hub as "hf-hub:user/name", of this learner's backbone, head and classes;
        its own weights only where it is among them. Returns which were taken. The history has a row
        for it, of phase "soup". The optimizer's state stays, and an unfinished run is given up.
        Raises ValueError for other models, and without validation data.
        Source: greedy soups, Wortsman et al. 2022, https://arxiv.org/abs/2203.05482

        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> pairs = TensorDataset(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> data = DataLoaders(DataLoader(pairs, 2), DataLoader(pairs, 4))
        >>> def trained(rate):
        ...     _ = torch.manual_seed(0)
        ...     learner = Learner(
        ...         data, nn.Linear(4, 2), loss=nn.functional.cross_entropy, split=lambda m: [[m]],
        ...         progress=False,
        ...     )
        ...     learner.fit(2, rate)
        ...     return learner
        >>> learner = trained(1e-3)
        >>> soup = learner.soup([learner, trained(1e-2), trained(3e-2)])
        >>> soup.taken[0], learner.validate() == soup.validation
        ('models[2]', True)
        """
        arguments.sequence("models", models, "learners, files and exported folders")
        if not models:
            raise ValueError("models has none; a soup is of two learners or files, or more")
        soup, row = self.trainer.soup(_ingredients(models))
        self.history.epochs.append(row)
        return soup

    def _with_progress(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """The callbacks, and bar and table where they are wanted: in one process of several."""
        if self.progress and distributed.rank() == 0:
            return [*callbacks, Progress(self.history)]
        return list(callbacks)

    # --- predictions

    def predictor(self) -> Predictor:
        """The model in evaluation, with preprocessing and classes, apart from data and optimizer.

        It belongs to the weights as they are: take a new one after training. Raises ValueError
        where the data names no classes.
        """
        predictor = self._current_predictor()
        if predictor.classes is None:
            raise ValueError("there are no class names to predict; pass DataLoaders(classes=[...])")
        return predictor

    def _current_predictor(self) -> Predictor:
        """One for each state of the weights: it keeps what need not be computed again."""
        post_processing = self.trainer.post_processing
        predictor = self._predictor
        if predictor is None or self._predictor_is_of != self.trainer.weights_version():
            # in the middle of a step of another thread, norms are folded into convolutions
            with turns.alone():
                predictor = self._new_predictor()
                self._predictor_is_of = self.trainer.weights_version()
        if predictor.post_processing != post_processing:
            predictor = predictor.with_post_processing(post_processing)
        self._predictor = predictor
        return predictor

    def _new_predictor(self) -> Predictor:
        setup = self.trainer.setup
        if self.trainer.is_running and is_sharded(setup.model):
            raise RuntimeError(
                "a sharded model has no copy that could answer while it trains; ask between two "
                "fits; an event of the end of an epoch has the results of its validation"
            )
        loaders = [setup.data.train]
        if setup.data.valid is not None:
            loaders.append(setup.data.valid)
        return Predictor(
            setup.model,
            setup.data.classes,
            setup.data,
            task=setup.data.task,
            runtime=setup.runtime,
            loss=setup.loss,
            metrics=setup.metrics,
            valid=setup.data.valid,
            known_loaders=loaders,
            training_shares=setup.data.class_shares(),
        )

    def validate(self) -> dict[str, float]:
        """`{"loss": ..., metric: ...}` on the validation data. Raises ValueError without any."""
        return self._current_predictor().evaluate()

    @overload
    def predict(self, item: "list[Any] | tuple[Any, ...]") -> list[Answer]: ...
    @overload
    def predict(self, item: Any) -> Answer: ...
    def predict(self, item: Any) -> Answer | list[Answer]:
        """Answers for one image, or for each image of a list, in a list.

        An answer is a `Prediction` with label, probability and the probabilities by class; of
        several labels an image it has labels and probabilities; of a regression, values.
        item: for images a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W].
        """
        answer: Answer | list[Answer] = self.predictor().predict(item)
        return answer

    def predict_together(self, items: Sequence[Any]) -> Answer:
        """One answer to several images of the same thing, such as a product or a patient.

        It is the answer to the mean of the model's outputs, which with a linear head is that to the
        mean of the features. It has no `set`, as coverage is calibrated for single images.
        `predictions(groups=...)` shows how good such answers are.
        """
        return self.predictor().predict_together(items)

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

    def predictions(
        self, source: LoaderLike | None = None, *, groups: Groups | None = None
    ) -> PredictionTable:
        """A table of the predictions for the validation data, or for another source.

        It has what can be counted and plotted of them: `report`, `plot_confusion_matrix`,
        `most_confused`, `to_csv`, ...
        source: a folder with one folder of images a class; a torch DataLoader with targets; or a
        loader of ours such as `learner.data.train`, whose examples are all read, in order and
        without augmentation. A DataLoader's images are taken to be normalised and in size already,
        unless they are in uint8. Rows are named by their files, or else by their numbers in the
        data set or list. The table of the validation data is kept until the weights change: until a
        step is trained, or torch counts a change of a parameter or buffer. For one class per
        example it is `Predictions`, for several labels `LabelsPredictions`, for numbers
        `ValuesPredictions`. groups: of images of one product or patient, which get one row: the
        answer to the mean of the model's outputs. It is a list with the group of each image, such
        as `learner.data.valid_examples.groups`, a function of the path, or a regular expression
        whose group in brackets is found in the path. Raises ValueError for a source without labels,
        or with those of other classes, and for a group of images with different labels.
        """
        return self._current_predictor().predictions(source, groups=groups)

    @takes_options()
    def show_results(self, count: int = 12) -> "Figure":
        """Validation images with what is predicted: mistakes first, then some that are right."""
        return self.predictions().show_results(count)

    def tta(self, views: int = 4, source: LoaderLike | None = None) -> PredictionTable:
        """Test-time augmentation: a table of predictions that are means over several views.

        The means are of probabilities, of a regression of values, over the usual view of each
        example and `views` random ones. Everything stays in eval mode, so BatchNorm statistics do
        not move. The temperature of `calibrate` is not in it: a mean of views is less sure already.
        Raises ValueError for data without augmentation, whose views are all the same.
        """
        return self._current_predictor().tta(views, source)

    def features(self, source: LoaderLike | None = None) -> Features:
        """What the backbone makes of each example, pooled: `.values` [N, F], `.targets`, `.items`.

        source: as in `predictions`. Raises ValueError for a model without a submodule "backbone".
        """
        return self._current_predictor().features(source)

    def activation_map(
        self, item: Any, target: str | int | None = None, *, layer: str | None = None
    ) -> ActivationMap:
        """Where in an image a class was seen (Grad-CAM): `.values` [H, W] in [0, 1], `.plot()`.

        item: as in `predict`. target: a class's name or number, None is the predicted one.
        layer: path of a module, None is the last one that has a map of the image. Needs captum:
        `pip install 'finetune-vision[explain]'`.
        """
        return self._current_predictor().activation_map(item, target, layer=layer)

    def suspicious_labels(self, count: int = 20, *, of: Part = "train") -> SuspiciousLabels:
        """Labels that are probably wrong, the surest first; `.plot()` shows the images.

        They are judged out of sample: those of validation by the model's predictions, those of
        training by logistic regressions, each on the other four fifths, over the features of the
        backbone as it was before the first fit, so that nothing has seen the label it judges.
        There are fewer than `count` where fewer are suspicious, and the table says where there are
        too few images to judge by. `.to_csv` writes them for `corrections=` of the data; `clean`
        asks you about each.
        """
        arguments.whole_number("count", count, at_least=1)
        arguments.choice("of", of, get_args(Part))
        predictor = self._current_predictor()
        if of == "valid" or not self.data.task.exclusive:
            return predictor.suspicious_labels(count=count).named_below(self._image_root())
        if not isinstance(self.data.train, IndexedLoader):
            raise ValueError(
                "the training loader does not number its examples, so that none could be named; "
                "use ImageDataLoaders, or of='valid'"
            )
        labels = predictor.suspicious_training_labels(
            count,
            self.data.train,
            untrained_weights=self.trainer.origin.weights(),
            groups=self.data.training_groups(),
        )
        return labels.named_below(self._image_root())

    def clean(
        self, file: str | Path = "corrections.csv", count: int = 30, *, of: Part = "train"
    ) -> Any:
        """Asks you about doubtful images in a notebook: keep, relabel, remove; with undo.

        The widget shows up to `count` suspicious labels, see `suspicious_labels`, and what else is
        among the `count` images with the largest losses; it works with the mouse and the keyboard.
        Every decision is written to `file` at once, and no image is moved or deleted; train with
        `ImageDataLoaders.from_folder(..., corrections=file)`. A file that is there is continued.
        In a terminal, `finetune clean` opens the same as a page. Needs anywidget: `pip install
        'finetune-vision[notebook]'`.
        """
        return create_widget(self.cleaning_session(file, count, of=of))

    def cleaning_session(
        self, file: str | Path = "corrections.csv", count: int = 30, *, of: Part = "train"
    ) -> Session:
        """What `clean` shows, for a front end of your own; see `cleaning.session.Session`."""
        target = arguments.path("file", file)
        arguments.whole_number("count", count, at_least=1)
        arguments.choice("of", of, get_args(Part))
        if not isinstance(self.data, ImageDataLoaders):
            raise ValueError("only images can be shown; make the data with ImageDataLoaders")
        task = self.data.task
        table = self._current_predictor().predictions(self.data.train if of == "train" else None)
        suspicious = self.suspicious_labels(count, of=of) if task.exclusive else None
        return Session(
            candidates(suspicious, table, count, self.data.root),
            self.data.classes if task.exclusive else (),
            target,
            note="" if suspicious is None else suspicious.caution,
        )

    def _image_root(self) -> Path | None:
        """The folder that images are named below, where there is one."""
        return self.data.root if isinstance(self.data, ImageDataLoaders) else None

    # --- what is fitted to the weights after training

    def calibrate(self, coverage: float | None = None) -> float:
        """Finds and returns the temperature that fits the probabilities to the validation data.

        It is the one that makes their labels likeliest; `predict`, `predictions` and `export` use
        it until the weights change. Above 1 the model was too sure of itself. Predicted classes
        stay as they are. See `Predictions.temperature`; `predictions().plot_calibration()` shows
        what it does. For another task than one class per example it needs `coverage`, and is 1.

        coverage: how often sets are to hold the truth, such as 0.9, in (0, 1).
        `predictions().plot_coverage()` shows what that takes. Every answer then has one:
        `prediction.set`, the classes that the truth is among; for several labels the classes among
        which each that is there is; of a regression `prediction.interval`. A class with at least
        100 images in validation is held that often by itself, the others together. It is so for
        images that are drawn like those of validation (by a random split), if neither the model nor
        a choice of settings has seen those; see `interpret.conformal`. Every answer also has
        `prediction.unknown`, how strange its image is, in [0, 1], and `prediction.is_unknown`,
        which is so for 5 % of the validation images; see `Familiarity`. For that, the model runs
        once more over validation and up to 4,000 images of training.
        Raises ValueError for fewer images than the coverage needs: 9 for 0.9, 99 for 0.99.
        """
        task = self.data.task
        if coverage is not None:
            arguments.real_number("coverage", coverage, above=0, below=1)
        elif not task.exclusive:
            raise ValueError(
                f"calibrate() is for one class per example, this is task={task.name!r}; "
                f"calibrate(coverage=0.9) is for every task, and {task.instead_of_calibration}"
            )
        predictor = self._current_predictor()
        fitted = self.trainer.post_processing
        if task.exclusive:
            # fitted to the outputs as they are, not on top of an earlier temperature
            temperature = predictor.plain_predictions().temperature()
            fitted = replace(fitted, temperature=temperature)
        if coverage is not None:
            table = predictor.with_post_processing(fitted).predictions()
            limits = task.fit_coverage(table, coverage)
            familiarity = predictor.familiarity(self.data.train)
            fitted = replace(fitted, coverage=limits, familiarity=familiarity)
        self.trainer.post_processing = fitted
        return fitted.temperature

    def tune_thresholds(self) -> dict[str, float]:
        """Finds from which probability on each class is predicted, for several labels an image.

        The thresholds give the best F1 of each class on the validation data; `predict`,
        `predictions` and `export` use them until the weights change, `validate` does not. Raises
        ValueError for another task, or without validation data.
        """
        without_thresholds = replace(self.trainer.post_processing, thresholds={})
        predictor = self._current_predictor().with_post_processing(without_thresholds)
        thresholds = predictor.predictions().best_thresholds()
        fitted = replace(without_thresholds, thresholds=thresholds)
        self.trainer.post_processing = fitted
        return dict(thresholds)

    def adjust_priors(self, priors: PriorChoice | None) -> dict[str, float]:
        """Answers for other shares of the classes than training saw, without training again.

        Where classes are uneven, a model rarely answers with a small one. With "uniform" all
        classes count alike, which raises the balanced accuracy and costs some accuracy; a mapping
        has the share of each class where the model is to be used, adding up to 1. `predict`,
        `predictions`, `validate`, checkpoints and `export` use them until the weights change; None
        undoes it. What training saw counts images, `sampling=` and `class_weights=`: after training
        with balanced ones "uniform" changes nothing. Returns the shares.

        It adds log(share / share in training) to the logits, for several labels the difference of
        the shares' logits, where "uniform" is one half of the images. Source: Menon et al. (2021).
        Raises ValueError for shares that do not add up to 1, for a regression, and where the sizes
        of the classes are not known.
        """
        fitted = self.trainer.post_processing
        adjusted = self.predictor().with_priors(priors).post_processing
        if fitted.thresholds:
            warn("tune_thresholds() was for other priors; its thresholds are given up, tune again")
        if fitted.coverage is not None:
            warn(
                "calibrate(coverage=) was for other priors; its sets are given up, calibrate again"
            )
        self.trainer.post_processing = adjusted
        return {} if adjusted.priors is None else dict(adjusted.priors.target)

    @property
    def thresholds(self) -> dict[str, float] | None:
        """The thresholds that `tune_thresholds` found, by class.

        None before it, and, with a warning, after more training.
        """
        return dict(self.trainer.post_processing.thresholds) or None

    # --- figures

    def plot_plan(self, plan: Plan | int | None = None) -> "Figure":
        """Learning rate and momentum of every layer group over all phases, before training.

        plan: a plan, or n for what `fine_tune(n)` would run. None: the plan of the present or last
        run, and before the first one that of `fine_tune(1)`.
        """
        request: PlanRequest = FineTune(1)
        if isinstance(plan, int):
            request = FineTune(arguments.whole_number("plan", plan, at_least=1))
        elif plan is not None:
            request = plan
        elif self.trainer.run is not None:
            request = self.trainer.run.plan
        resolved = self.trainer.resolve(request)
        spans, rates, momenta = tables.plan_table(resolved, self.trainer.setup.steps_per_epoch)
        if not self.optimizer.has_momentum:
            momenta = []
        return plot_rates(spans, self.layer_groups.names, rates, momenta)

    def plot_rates(self) -> "Figure":
        """Learning rate and momentum of every layer group over all steps so far."""
        rows = self.history.steps
        momenta = [row.momentum for row in rows if row.momentum]
        rates = [row.lr for row in rows]
        return plot_rates(self._spans(), self.layer_groups.names, rates, momenta)

    def plot_losses(self) -> "Figure":
        """Training loss of every step so far, and what validation gave after every epoch."""
        spans, rows = self._spans(), self.history.steps
        validation = tables.valid_points(spans, rows, self.history.epochs)
        return plot_losses(spans, [row.loss for row in rows], validation)

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

    # --- files

    def save(self, path: str | Path) -> None:
        """Writes everything that affects the next step into one file, atomically.

        Of several processes the first one writes it, and others that call this wait for it; all
        must call it where the model is sharded.
        Warns of weights that are NaN or infinite, as they are after a training that diverged.
        """
        target = arguments.path("path", path)
        broken = non_finite_weights(self.model)
        if broken:
            warn(
                f"the weights saved to {target} are NaN or infinite in {broken_in_words(broken)}: "
                "the training diverged; load an earlier file"
            )
        self.trainer.save_by_first(target)

    def load(self, path: str | Path) -> None:
        """Takes back what `save` wrote; an error leaves the learner as it was.

        Raises FileNotFoundError, or CheckpointError for a file that is truncated, of another model,
        or of a newer version.
        """
        self.trainer.load(arguments.path("path", path))

    @usual_modes()
    def export(
        self,
        folder: str | Path,
        format: FormatName | str | Sequence[FormatName | str] = "safetensors",
        *,
        overwrite: bool = False,
        license: str | None = None,
        onnx_opset: int | None = None,
    ) -> None:
        """Writes model, classes and preprocessing to a folder that can be used without finetune.

        format: one or several of "safetensors" (weights, for `load_learner`, and for a model made
        of timm's or torchvision's backbone and torch's head; with `head="linear"`, but for a
        regression, also for `timm.create_model("local-dir:FOLDER", pretrained=True)` and for
        transformers' `pipeline("image-classification", model="FOLDER")`, where timm's own
        classifier is such a layer), "onnx" and "torch_export" (graphs that take RGB in [0, 1] and
        give probabilities; each is read back and compared with the model), "onnx_fp16" and
        "onnx_int8" (smaller graphs, the second calibrated with validation images; the card says
        what they lose on those, and a warning where it is much), "app" (the weights with an app.py,
        a requirements.txt and a Dockerfile, which a host of demos runs as they are; the page is
        that of `finetune serve`). The folder's README.md shows how to use each.
        overwrite: replace an exported model; a folder with other files in it stays. license: what
        the card says of it, such as "mit"; None: nothing. onnx_opset: the version of ONNX's
        operators, 18 or newer; None is what torch takes by itself.
        Of several processes the first one writes it, and others that call this wait for it.
        Raises FileExistsError for a folder that is there already, ValueError for a model that was
        not built by `vision_learner` (save `learner.model.state_dict()` then) and for one with
        weights that are NaN or infinite, RuntimeError for one that can't be made a graph.
        """
        target = arguments.path("folder", folder).absolute()
        arguments.flag("overwrite", overwrite)
        self._export(target, format, license=license, onnx_opset=onnx_opset, overwrite=overwrite)

    @usual_modes()
    def push_to_hub(
        self,
        repository: str,
        format: FormatName | str | Sequence[FormatName | str] = "safetensors",
        *,
        private: bool | None = None,
        token: str | None = None,
        license: str | None = None,
        onnx_opset: int | None = None,
        message: str = "Upload a model",
    ) -> str:
        """Uploads what `export` writes to the Hugging Face hub, and returns the address there.

        `load_learner("hf-hub:user/name")` loads it from anywhere. It is one commit; files of an
        earlier push that this one does not write are removed, files of other people stay. No image
        is uploaded; the card has the names of the classes and how many images each had, and after
        `calibrate(coverage=...)` there are features of training images.
        repository: "user/name"; it is made where it is not there. format, license, onnx_opset: as
        in `export`. private: None is what the hub does by itself: public, unless an organisation
        says otherwise. token: None is the one of `hf auth login` or of HF_TOKEN. message: of the
        commit.
        In all processes but the first of a distributed run nothing is uploaded, and the address is
        empty. Raises as `export`; PermissionError where nobody is logged in or may write there,
        ConnectionError without a network, and FileExistsError for a repository that holds another
        kind of model.
        """
        arguments.text("repository", repository)
        arguments.text("message", message)
        if private is not None:
            arguments.flag("private", private)
        if token is not None:
            arguments.text("token", token)
        hub.check_can_upload(repository, token)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self._export(
                folder, format, license=license, onnx_opset=onnx_opset, repository=repository
            )
            if distributed.rank():
                return ""
            return hub.upload(folder, repository, private=private, token=token, message=message)

    def _export(
        self,
        target: Path,
        format: FormatName | str | Sequence[FormatName | str],
        *,
        license: str | None,
        onnx_opset: int | None,
        overwrite: bool = False,
        repository: str = "",
    ) -> None:
        """Writes the folder, for a repository of the model hub if one is named."""
        formats = export.check_formats(format)
        if license is not None:
            arguments.text("license", license)
        check_opset(onnx_opset)
        write = partial(
            self._write_export,
            target,
            formats,
            license=license or "",
            onnx_opset=onnx_opset,
            overwrite=overwrite,
            repository=repository,
        )
        # folders of pushed models are temporary, of a name of its own in each process
        name = f"push_to_hub({repository!r})" if repository else f"export({str(target)!r})"
        model = self._checked_for_export()
        if is_sharded(model):
            with together(name):
                whole = model.as_whole()
                distributed.of_first(partial(write, whole))
            return
        by_first(name, partial(write, model))

    def _checked_for_export(self) -> ImageClassifier:
        """The model. Raises ValueError for one that could not be rebuilt."""
        if not isinstance(self.model, ImageClassifier):
            raise ValueError(_ONLY_OF_VISION)
        if not self.model.is_as_described:
            raise ValueError(
                "layers of the model were replaced after vision_learner made it, so that an "
                "exported model could not be rebuilt; "
                "save learner.model.state_dict() and rebuild the model in your own code"
            )
        return self.model

    def _write_export(
        self,
        target: Path,
        formats: tuple[str, ...],
        model: ImageClassifier,
        *,
        license: str,
        onnx_opset: int | None,
        overwrite: bool,
        repository: str,
    ) -> None:
        """Writes a model, which is the learner's, or the whole of its shards."""
        broken = non_finite_weights(model)
        if broken:
            raise ValueError(
                f"the model's weights are NaN or infinite in {broken_in_words(broken)}, and "
                "nothing was exported: the training diverged; load an earlier checkpoint"
            )
        description = replace(self._describe(model, formats), license=license)
        images: LabelledImages | None = None
        if self.data.valid is not None:
            images = self._current_predictor().labelled_images()
        export.write(
            target,
            model,
            description,
            card=partial(model_card, source=model.source(), repository=repository),
            images=images,
            onnx_opset=onnx_opset,
            overwrite=overwrite,
        )

    def _describe(self, model: ImageClassifier, formats: tuple[str, ...]) -> ModelDescription:
        inputs = self.data.describe_inputs()
        if inputs is None or self.data.classes is None:
            raise ValueError(_ONLY_OF_VISION)
        record = training_record(self.trainer.setup, self.history.steps, self.history.epochs)
        return ModelDescription(
            architecture=model.architecture,
            classes=self.data.classes,
            task=self.data.task,
            preprocessing=Preprocessing.from_dict(inputs),
            post_processing=self.trainer.post_processing,
            formats=formats,
            data=record.data,
            training=record.training,
            validation=record.validation,
            versions={name: version(name) for name in _RECORDED_PACKAGES},
            base_models=model.base_models,
        )


def _ingredients(models: Sequence[Learner | str | Path]) -> list[Ingredient]:
    """What a soup may be made of, each with a name of its own."""
    ingredients: list[Ingredient] = []
    for position, model in enumerate(models):
        if isinstance(model, Learner):
            ingredients.append(of_setup(f"models[{position}]", model.trainer.setup))
            continue
        path = arguments.path(f"models[{position}]", model)
        if hub.is_on_hub(path):
            ingredients.append(of_exported(hub.download(str(path)), name=str(path)))
        elif path.is_dir():
            ingredients.append(of_exported(path))
        else:
            ingredients.append(of_checkpoint(path))
    names = [ingredient.name for ingredient in ingredients]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"models has {name} twice; give each once")
    return ingredients


_ONLY_OF_VISION = (
    "only a learner made by vision_learner knows how to rebuild its model; "
    "save learner.model.state_dict() and rebuild the model in your own code"
)
