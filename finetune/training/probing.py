"""Probing: fits the head as a linear probe of the features that the frozen layers give."""

import time
from collections.abc import Sequence
from contextlib import closing

import torch
from torch import Tensor, nn

from finetune import distributed, turns
from finetune.data.loaders import IndexedLoader
from finetune.data.sampling import chances
from finetune.models.linear_head import (
    check_can_be_linear,
    head_of,
    linear_head,
    set_linear_head,
)
from finetune.nested import count_examples, main_target
from finetune.probe.linear_probe import FOLDS, LinearProbe, fit_probe
from finetune.randomness import isolated
from finetune.training.evaluation import validate
from finetune.training.events import (
    Callback,
    EpochEnd,
    EpochStart,
    Event,
    FitEnd,
    FitStart,
    PhaseStart,
    deliver,
    deliver_last,
)
from finetune.training.frozen.feature_cache import FeatureCache
from finetune.training.frozen.prefix import Suffix
from finetune.training.frozen.prefixes import FrozenPrefixes, flags_restored
from finetune.training.phase import PROBE, Phase, probe_phase
from finetune.training.setup import Setup

LARGEST = 2e9
"""Examples x features x outputs, beyond which a few epochs of steps are faster than the solver."""


def run_probe(
    setup: Setup,
    callbacks: Sequence[Callback],
    *,
    views: int,
    folds: int,
    epoch_number: int,
) -> LinearProbe:
    """Computes the features, fits the probe and makes it the model's head.

    The events are those of a phase with one epoch and no step. views: 1 is the view of validation;
    more are so many random ones. epoch_number: of this epoch among all of the learner, and of the
    first random view. Nothing of the model has changed if an error is raised before validation,
    as ValueError is where the features of the frozen layers can't be kept, or are not pooled [F].
    """
    groups = setup.optimizer.groups
    # the rates are those in force; no step is done with them
    phase = Phase(PROBE, views, len(groups) - 1, {"lr": groups.values_of("lr")}, views=views)
    reason = "finished"
    try:
        with isolated():
            probe = _run(setup, callbacks, phase, folds=folds, epoch_number=epoch_number)
    except (KeyboardInterrupt, SystemExit):
        reason = "interrupted"
        raise
    except BaseException as error:
        reason = f"failed: {error}"
        raise
    finally:
        setup.model.eval()
        error_at_end = deliver_last(callbacks, FitEnd(reason))
    if error_at_end is not None:
        raise error_at_end
    return probe


def _run(
    setup: Setup, callbacks: Sequence[Callback], phase: Phase, *, folds: int, epoch_number: int
) -> LinearProbe:
    started_at = time.perf_counter()
    start = FitStart(
        phases=(PROBE,),
        epochs=1,
        steps_per_epoch=1,
        groups=setup.optimizer.groups.names,
        first_epoch=0,
        validates=setup.data.valid is not None,
        metrics=tuple(setup.metrics),
    )
    phase_start = PhaseStart(PROBE, 1, phase.frozen, peaks=phase.largest())
    for event in (start, phase_start, EpochStart(PROBE, 0, 1, 0)):
        _tell(callbacks, event)
    with flags_restored(setup):
        _train_only_the_head(setup.model)
        cache = _feature_cache(setup, phase, epoch_number)
        with cache.suffix.active():
            features, targets = _features_of_views(cache, callbacks, epoch_number)
            probe, train_loss = _fit(setup, features, targets, folds=folds)
            _make_head(setup.model, probe)
            results = {} if cache.setup.data.valid is None else validate(cache.setup)
    seconds = time.perf_counter() - started_at
    _tell(callbacks, EpochEnd(PROBE, 0, train_loss, results, seconds, epoch_number))
    return probe


def can_probe(setup: Setup, suffix: Suffix) -> bool:
    """Whether `probe_kept` can be used: the last group is one linear layer on pooled features.

    suffix: of the model with all groups but the last frozen. Also False for a task without a convex
    loss, and for so much data that steps on the kept features are faster.
    """
    data = setup.data
    shape = suffix.features.shape
    if data.classes is None or len(shape) != 1 or not data.task.has_probe:
        return False
    outputs = data.task.output_count(data.classes)
    assert isinstance(data.train, IndexedLoader)  # its features can be kept
    size = count_examples(data.train.targets) * outputs * shape.numel()
    if size > LARGEST:
        return False
    layer = linear_head(setup.model, torch.Size([outputs, *shape]))
    if layer is None:
        return False
    of_layer = set(map(id, layer.parameters()))
    of_group = set(map(id, setup.optimizer.groups[-1].parameters.values()))
    return of_layer == of_group


def probe_kept(cache: FeatureCache, epoch_number: int) -> float:
    """Makes the head the probe of the training features that `cache.fill` computed.

    Returns its loss on them. `can_probe` says whether it can be done.
    """
    view = cache.training_features(epoch_number)
    features, targets = view.inputs[None], main_target(view.targets)
    probe, train_loss = _fit(cache.whole, features, targets, folds=FOLDS)
    _make_head(cache.whole.model, probe)
    return train_loss


def _make_head(model: nn.Module, probe: LinearProbe) -> None:
    """Makes the head the probe, in all processes."""
    with turns.alone():
        set_linear_head(model, probe.weight, probe.bias)
        distributed.share_weights(model)


def frozen_features(setup: Setup) -> tuple[Tensor, Tensor]:
    """The features [N, F] of the training images, in the view of validation, and their targets.

    Raises ValueError as `run_probe` does.
    """
    groups = setup.optimizer.groups
    phase = probe_phase(groups)
    with isolated(), flags_restored(setup):
        _train_only_the_head(setup.model)
        cache = _feature_cache(setup, phase, 0)
        with cache.suffix.active():
            for _ in cache.fill_training(0):
                pass
    features = cache.training_features(0)
    return features.inputs, main_target(features.targets)


def _train_only_the_head(model: nn.Module) -> None:
    """Freezes all but the head, so that what the head gets is constant and can be kept."""
    head = head_of(model)
    for module in model.modules():
        module.training = False
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad_(True)


def _feature_cache(setup: Setup, phase: Phase, first_epoch: int) -> FeatureCache:
    cache = FeatureCache.create(setup, phase, first_epoch, FrozenPrefixes(setup))
    if cache is None:
        raise ValueError(
            "the features of the backbone can't be kept for a probe: it needs images with numbers "
            "(ImageDataLoaders), room for the features in memory, and a model whose head gets "
            "nothing but what the layers before it give; fit_one_cycle trains any head"
        )
    shape = cache.suffix.features.shape
    if len(shape) != 1:
        raise ValueError(
            f"a probe needs pooled features [F] for the head, the layers before it give "
            f"{list(shape)}; let the backbone pool them"
        )
    classes = setup.data.classes
    if classes is None:
        raise ValueError("a probe needs to know the classes; pass DataLoaders(classes=[...])")
    outputs = setup.data.task.output_count(classes)
    check_can_be_linear(setup.model, torch.Size([outputs, *shape]))
    return cache


def _features_of_views(
    cache: FeatureCache, callbacks: Sequence[Callback], first_epoch: int
) -> tuple[Tensor, Tensor]:
    """Features [V, N, F] and targets [N, ...] of training; those of validation are computed too."""
    features: list[Tensor] = []
    for number in range(first_epoch, first_epoch + cache.views):
        with closing(cache.fill(number)) as precomputed:
            for event in precomputed:
                _tell(callbacks, event)
        view = cache.training_features(number)
        features.append(view.inputs)
        targets = main_target(view.targets)
    return torch.stack(features), targets


def _fit(
    setup: Setup, features: Tensor, targets: Tensor, *, folds: int
) -> tuple[LinearProbe, float]:
    """The probe, and its loss on what it was fitted to."""
    task, classes = setup.data.task, setup.data.classes
    assert classes is not None  # see `_feature_cache`
    weights = setup.loss_weight.of_examples(targets)
    # what the loss ignores may be no class number
    counted = targets.clone()
    counted[weights == 0] = 0
    if setup.data.sampling is not None:
        # an image that would come twice in an epoch counts twice
        weights = weights * len(counted) * chances(counted, setup.data.sampling).to(weights.dtype)
    losses_like_training = task.probe_losses_like(setup.loss)
    probe = fit_probe(
        features,
        counted,
        task,
        classes,
        losses=losses_like_training,
        example_weights=weights,
        groups=setup.data.training_groups(),
        folds=folds,
        seed=setup.data.seed,
    )
    losses = losses_like_training(probe.outputs(features[0]), counted)
    return probe, float((losses * weights).sum() / weights.sum())


def _tell(callbacks: Sequence[Callback], event: Event) -> None:
    """Hands an event to every callback; there is nothing to stop or to save in a probe."""
    for callback in callbacks:
        deliver(callback, event)
