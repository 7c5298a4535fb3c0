"""What is wrong with a model that does not fit its data, in words that say the way out."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from finetune.nested import main_output
from finetune.tasks import LossWeight

_ONE_VALUE = "Expected more than 1 value per channel when training"


def explain_batch_of_one(error: ValueError) -> None:
    """Raises a ValueError that says what to do, if this one is about a batch of one example.

    BatchNorm in train mode can't take statistics of it. Any other error is left to the caller.
    """
    if not str(error).startswith(_ONE_VALUE):
        return
    raise ValueError(
        "a batch of one example has no statistics for BatchNorm in train mode; use batch_size=2 or "
        "more (with drop_last=True, where the last batch has one example), or norm='eval' and a "
        "head without BatchNorm (head='linear')"
    ) from error


def check_output_count(
    outputs: Any, classes: Sequence[str] | None, loss_weight: LossWeight
) -> None:
    """Raises ValueError for another number of outputs than the data have classes.

    Only the outputs of cross-entropies are judged: for another loss they may be anything.
    """
    if classes is None or not loss_weight.is_of_classes:
        return
    output = main_output(outputs)
    if not isinstance(output, Tensor):
        return
    if output.ndim != 2 or output.shape[1] == len(classes):
        return
    names = ", ".join(classes[:3])
    if len(classes) > 3:
        names += ", ..."
    raise ValueError(
        f"the model has {output.shape[1]} outputs for {len(classes)} classes ({names}); "
        f"give its last layer {len(classes)} outputs, such as "
        f"nn.Linear(..., {len(classes)}), or name all classes with classes="
    )
