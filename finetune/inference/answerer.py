"""Answerer: what a model answers to a batch of inputs, whatever they were read from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune import turns
from finetune.inference.feature_tap import FeatureTap
from finetune.modes import usual_modes
from finetune.nested import main_output
from finetune.tasks import Answer, PostProcessing, Task
from finetune.training.evaluation import pass_of_all
from finetune.training.setup import forward
from finetune.wording import counted


class Answerer:
    """Outputs, what priors add to them, probabilities, how strange an image is, and the answers.

    Several threads may ask it at once. model: in eval mode. task: what its outputs mean. classes:
    the names of the outputs, or None where there are none. post_processing: what was fitted to
    these weights.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        classes: tuple[str, ...] | None,
        post_processing: PostProcessing,
    ) -> None:
        self._model = model
        self._task = task
        self._classes = classes
        self._post_processing = post_processing
        # only what tells strange images looks at features
        self._tap: FeatureTap | None = None
        if post_processing.familiarity is not None:
            self._tap = FeatureTap(model)

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes. Raises ValueError where there are none."""
        if self._classes is None:
            raise ValueError("there are no class names to predict; pass DataLoaders(classes=[...])")
        return self._classes

    def check_class_count(self, outputs: Any) -> None:
        """Raises ValueError for names that are more or fewer than the model's outputs [B, C]."""
        if self._classes is None or not isinstance(outputs, Tensor) or outputs.ndim != 2:
            return
        expected = self._task.output_count(self._classes)
        if outputs.shape[1] != expected:
            raise ValueError(
                f"classes has {counted(len(self._classes), 'name')}, for {expected} outputs, and "
                f"the model gives {outputs.shape[1]}; name all of them, in their order"
            )

    def shifted(self, outputs: Tensor) -> Tensor:
        """The outputs with what the priors add, see `Predictor.with_priors`."""
        if self._post_processing.priors is None:
            return outputs
        return self._post_processing.shifted(outputs, self.class_names())

    def answers(self, inputs: Any) -> list[Answer]:
        """An answer for each image of a batch, with all that post-processing adds to it."""
        classes = self.class_names()
        outputs, unknown = self._outputs(inputs)
        answers = []
        for row, share in zip(self._activated(outputs), unknown, strict=True):
            answer = self._task.answer(row, classes, self._post_processing)
            answers.append(_with_unknown(answer, share))
        return answers

    def answer_together(self, inputs: Any) -> Answer:
        """One answer to all images of a batch, see `Predictor.predict_together`."""
        classes = self.class_names()
        outputs, unknown = self._outputs(inputs)
        mean = self._activated(outputs.mean(dim=0, keepdim=True))
        without_sets = replace(self._post_processing, coverage=None)
        answer = self._task.answer(mean[0], classes, without_sets)
        shares = [share for share in unknown if share is not None]
        return _with_unknown(answer, sum(shares) / len(shares) if shares else None)

    def probabilities(self, inputs: Any) -> Tensor:
        """Probabilities or values [B, C] of a batch, on the CPU."""
        outputs, _ = self._outputs(inputs)
        return self._activated(outputs)

    @torch.no_grad()
    def _activated(self, outputs: Tensor) -> Tensor:
        """Probabilities or values [B, C] on the CPU."""
        temperature = self._post_processing.temperature
        activated = self._task.activation(self.shifted(outputs), temperature).cpu()
        if not activated.isfinite().all():
            raise ValueError(
                "the model gives values that are not finite, so that there is no answer: its "
                "training diverged, or its weights are damaged"
            )
        return activated

    @usual_modes()
    @torch.no_grad()
    def _outputs(self, inputs: Any) -> tuple[Tensor, Sequence[float | None]]:
        """Outputs [B, C] of the model, and of each image how unknown it is."""
        model = self._model if self._tap is None else self._tap.model
        # not in the precision of passes over data: a single answer is computed in float32
        with turns.shared(), pass_of_all(model):
            outputs: Tensor = main_output(forward(model, inputs))
        self.check_class_count(outputs)
        familiarity = self._post_processing.familiarity
        if familiarity is None or self._tap is None:
            return outputs, [None] * len(outputs)
        energy = self._task.energy(outputs)
        if energy is not None:
            energy = energy.cpu()
        # of outputs that are not finite it is no number, and answers are refused for them: to ask
        # for it here, too, would make the host wait for a GPU once more
        return outputs, familiarity.unknown(energy, self._tap.take())


def _with_unknown(answer: Answer, share: float | None) -> Answer:
    # a task of the user's may have answers of its own
    if share is not None and hasattr(answer, "unknown"):
        answer.unknown = share
    return answer
