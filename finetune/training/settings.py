"""StepSettings: the options of a training step."""

from dataclasses import dataclass

from finetune import arguments


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What a training step does besides forward, backward and update.

    accumulate: batches per update. clip_norm: largest norm of the gradient, None for any.
    mixup, cutmix: alpha of the Beta distribution, 0 for none, see `mixing`. label_smoothing: the
    fraction of each target that is spread over all classes. ema: decay of the averaged weights,
    None for no average, see `Average`.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None

    def __post_init__(self) -> None:
        arguments.whole_number("accumulate", self.accumulate, at_least=1)
        if self.clip_norm is not None:
            arguments.real_number("clip_norm", self.clip_norm, above=0)
        arguments.real_number("mixup", self.mixup, at_least=0)
        arguments.real_number("cutmix", self.cutmix, at_least=0)
        arguments.real_number("label_smoothing", self.label_smoothing, at_least=0, below=1)
        if self.ema is not None:
            arguments.real_number("ema", self.ema, above=0, below=1)

    def to_dict(self) -> dict[str, float | None]:
        """The settings that a resumed run must have, too, as plain data."""
        # plain floats, since no numpy number may get into a checkpoint
        return {
            "mixup": float(self.mixup),
            "cutmix": float(self.cutmix),
            "label_smoothing": float(self.label_smoothing),
            "ema": None if self.ema is None else float(self.ema),
        }
