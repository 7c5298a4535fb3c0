"""finetune: from a folder of images to a classifier you trust."""

# what takes seconds to import comes first: Ctrl-C meanwhile is said without all that is imported
try:
    import timm as _timm  # noqa: F401  (it brings torch and torchvision)
except KeyboardInterrupt:
    raise KeyboardInterrupt from None

from finetune.callbacks.csv_log import CSVLog
from finetune.callbacks.early_stopping import EarlyStopping
from finetune.callbacks.history import History
from finetune.callbacks.live_plot import LivePlot
from finetune.callbacks.mlflow_log import MLflow
from finetune.callbacks.ray_report import RayReport
from finetune.callbacks.save_best import SaveBest
from finetune.callbacks.tensorboard_log import TensorBoard
from finetune.callbacks.update_norms import UpdateNorms
from finetune.callbacks.wandb_log import Wandb
from finetune.comparison import Comparison, compare
from finetune.cross_validation import CrossValidation, cross_validate
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.images.augment import Augmentation
from finetune.data.images.opening import ImageError
from finetune.data.loaders import Batch, DataLoaders
from finetune.dictionary import no_such_name as _no_such_name
from finetune.inference.files import write_csv, write_jsonl
from finetune.inference.predictor import Predictor
from finetune.learner import Learner
from finetune.models.backbones import WeightsError
from finetune.models.group_values import LayerDecay
from finetune.models.layer_group import LayerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.optim.factories import Matrices, adamw, muon
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.optim.scaled_updates import ScaledUpdates
from finetune.optim.schedules import delayed, one_cycle
from finetune.tasks import (
    FilePrediction,
    LabelsPrediction,
    PostProcessing,
    Prediction,
    Task,
    ValuesPrediction,
)
from finetune.training.checkpoint import CheckpointError
from finetune.training.divergence import DivergenceError
from finetune.training.events import Callback, Save, Stop
from finetune.training.phase import Phase
from finetune.training.runtime.runtime import Runtime
from finetune.vision import load_learner, vision_learner

__all__ = [
    "Augmentation",
    "Batch",
    "CSVLog",
    "Callback",
    "CheckpointError",
    "Comparison",
    "CrossValidation",
    "DataLoaders",
    "DivergenceError",
    "EarlyStopping",
    "FilePrediction",
    "GroupOptimizer",
    "History",
    "ImageDataLoaders",
    "ImageError",
    "LabelsPrediction",
    "LayerDecay",
    "LayerGroup",
    "LayerGroups",
    "Learner",
    "LivePlot",
    "MLflow",
    "Matrices",
    "Phase",
    "PostProcessing",
    "Prediction",
    "Predictor",
    "RayReport",
    "Runtime",
    "Save",
    "SaveBest",
    "ScaledUpdates",
    "Stop",
    "Task",
    "TensorBoard",
    "UpdateNorms",
    "ValuesPrediction",
    "Wandb",
    "WeightsError",
    "adamw",
    "compare",
    "cross_validate",
    "delayed",
    "load_learner",
    "muon",
    "one_cycle",
    "vision_learner",
    "write_csv",
    "write_jsonl",
]

# set, not defined: a type checker that sees this function takes any name for right
globals()["__getattr__"] = _no_such_name

__version__ = "0.1.0"  # the only place: pyproject.toml takes it from here
