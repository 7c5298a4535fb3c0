"""What the targets of a model are: one class an image, several, or numbers; or a kind of yours."""

from finetune.tasks.answers import (
    Answer,
    FilePrediction,
    LabelsPrediction,
    Prediction,
    ValuesPrediction,
)
from finetune.tasks.base import CardText, Task
from finetune.tasks.familiarity import Familiarity
from finetune.tasks.loss_weight import LossWeight
from finetune.tasks.losses import Loss, SquaredError, batch_loss
from finetune.tasks.multi_label import MultiLabel
from finetune.tasks.post_processing import PostProcessing
from finetune.tasks.priors import PriorChoice, Priors
from finetune.tasks.registry import (
    DEFAULT_TASK,
    TaskLike,
    TaskName,
    register,
    registered_tasks,
    resolve_task,
)
from finetune.tasks.regression import Regression
from finetune.tasks.single_label import SingleLabel
from finetune.tasks.unevenness import ClassWeights

__all__ = [
    "DEFAULT_TASK",
    "Answer",
    "CardText",
    "ClassWeights",
    "Familiarity",
    "FilePrediction",
    "LabelsPrediction",
    "Loss",
    "LossWeight",
    "MultiLabel",
    "PostProcessing",
    "Prediction",
    "PriorChoice",
    "Priors",
    "Regression",
    "SingleLabel",
    "SquaredError",
    "Task",
    "TaskLike",
    "TaskName",
    "ValuesPrediction",
    "batch_loss",
    "register",
    "registered_tasks",
    "resolve_task",
]
