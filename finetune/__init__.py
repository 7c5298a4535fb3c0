"""finetune: from a folder of images to a classifier you trust."""

from finetune.callbacks.early_stopping import EarlyStopping
from finetune.callbacks.history import History
from finetune.callbacks.save_best import SaveBest
from finetune.data.augment import Augmentation
from finetune.data.decode import ImageError
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.loaders import Batch, DataLoaders
from finetune.learner import Learner
from finetune.models.backbones import WeightsError
from finetune.models.layer_groups import LayerGroup, LayerGroups
from finetune.optim.group_optimizer import GroupOptimizer, adamw
from finetune.predictor import Prediction, Predictor
from finetune.training.checkpoint import CheckpointError
from finetune.training.events import Callback, Save, Stop
from finetune.training.plan import Phase
from finetune.training.runtime import Runtime
from finetune.training.step import DivergenceError
from finetune.vision import load_learner, vision_learner

__all__ = [
    "Augmentation",
    "Batch",
    "Callback",
    "CheckpointError",
    "DataLoaders",
    "DivergenceError",
    "EarlyStopping",
    "GroupOptimizer",
    "History",
    "ImageDataLoaders",
    "ImageError",
    "LayerGroup",
    "LayerGroups",
    "Learner",
    "Phase",
    "Prediction",
    "Predictor",
    "Runtime",
    "Save",
    "SaveBest",
    "Stop",
    "WeightsError",
    "adamw",
    "load_learner",
    "vision_learner",
]

__version__ = "0.1.0"
