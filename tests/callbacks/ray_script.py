"""Trains in two workers of Ray; run by test_ray_report.py: python ray_script.py STORAGE LOSSES."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

LOST_IN_EPOCH = 2


def train(config: dict[str, Any]) -> None:
    import numpy as np
    from ray import train as ray_train

    from finetune import Callback, ImageDataLoaders, RayReport, vision_learner
    from finetune.training.events import StepEnd

    storage = Path(config["storage"])

    class Lost(Callback):
        """Kills the second worker in the middle of an epoch, as often as it is to be lost."""

        def on_step_end(self, event: StepEnd) -> None:
            losses = len(list(storage.glob("lost-*")))
            is_second = ray_train.get_context().get_world_rank() == 1
            if is_second and event.epoch >= LOST_IN_EPOCH - 1 and losses < config["losses"]:
                (storage / f"lost-{losses}").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(24)]
    data = ImageDataLoaders.from_lists(images, ["a", "b"] * 12, image_size=32, batch_size=4)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False, device="cpu")
    report = RayReport()
    if report.checkpoint.exists():
        (storage / "went-on").touch()
    learner.fine_tune(4, freeze_epochs=1, checkpoint=report.checkpoint, callbacks=[report, Lost()])
    if ray_train.get_context().get_world_rank() == 0:
        learner.save(storage / "end.ckpt")
        learner.history.write_csv(storage / "history.csv")


def main() -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    storage, losses = Path(sys.argv[1]), int(sys.argv[2])
    ray.init(num_cpus=2, include_dashboard=False)
    result = TorchTrainer(
        train,
        train_loop_config={"storage": str(storage), "losses": losses},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            storage_path=str(storage / "ray"),
            name="run",
            failure_config=FailureConfig(max_failures=losses),
        ),
    ).fit()
    print("metrics", sorted(result.metrics), result.metrics["epoch"])


if __name__ == "__main__":
    main()
