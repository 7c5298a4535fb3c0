"""EarlyStopping: ends a fit when validation has stopped getting better."""

from typing import Any, Literal

from finetune import arguments
from finetune.callbacks.monitor import Monitor
from finetune.training.events import Answer, Callback, EpochEnd, FitStart, PhaseStart, Stop


class EarlyStopping(Callback):
    """Ends a phase after `patience` epochs in a row without a new best value of `monitor`.

    monitor: "loss" (validation), "train_loss", or a metric's name. Each phase starts anew: when a
    frozen phase has ended early, the unfrozen one follows.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> learner.fit(9, 1e-3, callbacks=[EarlyStopping("accuracy", patience=1, min_delta=1)])
    >>> len(learner.history.epochs)
    2
    """

    def __init__(
        self,
        monitor: str = "loss",
        *,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        self.patience = arguments.whole_number("patience", patience, at_least=1)
        self.epochs_without_gain = 0
        self._monitor = Monitor(monitor, mode, min_delta)

    def on_fit_start(self, event: FitStart) -> None:
        self._monitor.check(event)

    def on_phase_start(self, event: PhaseStart) -> None:
        if event.first_epoch == 0:
            self.epochs_without_gain = 0
            self._monitor.reset()

    def on_epoch_end(self, event: EpochEnd) -> Answer:
        if self._monitor.improved(event):
            self.epochs_without_gain = 0
            return None
        self.epochs_without_gain += 1
        if self.epochs_without_gain < self.patience:
            return None
        name, best = self._monitor.monitor, self._monitor.best
        reason = f"{name} no better than {best:.4f} for {self.patience} epochs"
        return Stop(reason, phase_only=True)

    def state_dict(self) -> dict[str, Any]:
        return {"waited": self.epochs_without_gain, **self._monitor.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs_without_gain = state["waited"]
        self._monitor.load_state_dict(state)
