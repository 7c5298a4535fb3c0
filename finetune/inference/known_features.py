"""What a model knows: features and energies of its data, for `Familiarity`."""

from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor, nn

from finetune.data.loaders import EpochLoader, IndexedLoader, InputPipeline
from finetune.inference.feature_tap import FeatureTap
from finetune.inference.outputs import reading
from finetune.inference.reading import InOrder
from finetune.nested import count_examples, main_output
from finetune.randomness import generator
from finetune.tasks import Familiarity, Task
from finetune.tasks.familiarity import MOST_FEATURES
from finetune.training.evaluation import run_through
from finetune.training.runtime.runtime import Runtime


def fit_familiarity(
    model: nn.Module,
    train: EpochLoader,
    valid: EpochLoader,
    pipeline: InputPipeline,
    runtime: Runtime,
    task: Task,
) -> Familiarity | None:
    """Measures the validation data beside the training data; None for a model without a measure.

    Of many training images some are drawn, the same for the same seed. Both are seen without
    augmentation.
    """
    tap = FeatureTap(model)
    energies: list[Tensor] = []
    valid_features: list[Tensor] = []
    for outputs, features in _run(tap, valid, pipeline, runtime):
        energy = task.energy(outputs)
        if energy is not None:
            energies.append(energy.cpu())
        if features is not None:
            valid_features.append(features)
    if not energies and not valid_features:
        return None
    known_features: list[Tensor] = []
    if valid_features:
        count = 0
        for _, features in _run(tap, _some_of(train, pipeline.seed), pipeline, runtime):
            if features is not None:
                known_features.append(features)
                count += len(features)
            if count >= MOST_FEATURES:
                break
    return Familiarity.fit(
        torch.cat(energies) if energies else None,
        torch.cat(valid_features) if valid_features else None,
        torch.cat(known_features)[:MOST_FEATURES] if known_features else None,
    )


def _some_of(loader: EpochLoader, seed: int) -> EpochLoader:
    """As many examples of a loader as are kept, drawn at random; of one without numbers all."""
    if not isinstance(loader, IndexedLoader):
        return loader
    count = count_examples(loader.targets)
    drawn = torch.randperm(count, generator=generator(seed, "familiarity"))[:MOST_FEATURES]
    batch_sizes = [len(batch) for batch in loader.order(seed, 0)]
    return InOrder(loader, max(batch_sizes, default=1), drawn.sort().values)


def _run(
    tap: FeatureTap, loader: EpochLoader, pipeline: InputPipeline, runtime: Runtime
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Main outputs and features of each batch."""
    batches = run_through(tap.model, loader, pipeline, runtime)
    with reading(loader), closing(batches):
        for _, outputs in batches:
            yield main_output(outputs), tap.take()
