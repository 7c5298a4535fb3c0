"""What `finetune train` fits to the trained weights, so that answers can be trusted."""

from finetune.config import TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.interpret.conformal import check_enough
from finetune.learner import Learner


def check(learner: Learner, config: TrainConfig) -> None:
    """Raises ValueError for settings of answers that this model and these images can't have."""
    data = learner.data
    assert isinstance(data, ImageDataLoaders)
    if config.adjust_priors is not None:
        learner.predictor().with_priors(config.adjust_priors)
    if config.tune_thresholds and not data.task.has_thresholds:
        raise ValueError(
            f"tune_thresholds is for several labels an image (task: multi_label), and this is "
            f"task: {data.task.name}; leave it out"
        )
    if config.coverage is not None:
        check_enough(len(data.valid_examples), config.coverage, "validation image")


def fit(learner: Learner, config: TrainConfig) -> None:
    """Adjusts priors, thresholds and sets of classes, in this order: each changes the next."""
    if config.adjust_priors is not None:
        learner.adjust_priors(config.adjust_priors)
    if config.tune_thresholds:
        learner.tune_thresholds()
    if config.coverage is not None:
        learner.calibrate(config.coverage)
