"""Oxford-IIIT Pets, 37 breeds: 7,349 photos that torchvision downloads (800 MB).

    python examples/pets.py --model resnet34
    python examples/pets.py --model convnext_tiny --image-size 224 --epochs 5

Needs a network, for the photos and for the pretrained weights.
"""

import argparse
from pathlib import Path

from torchvision.datasets import OxfordIIITPet

from finetune import ImageDataLoaders, vision_learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet34", help="any timm model name")
    parser.add_argument("--folder", type=Path, default=Path("pets"), help="for the photos")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    train = OxfordIIITPet(options.folder, "trainval", download=True)
    test = OxfordIIITPet(options.folder, "test", download=True)
    data = ImageDataLoaders.from_dataset(train, test, image_size=options.image_size)
    print(data)

    learner = vision_learner(data, options.model)
    learner.fine_tune(options.epochs)
    found = learner.predictions()
    print(found.report())
    for row in found.most_confused()[:5]:
        print(f"{row.count} photos of {row.target} are taken for {row.predicted}")
    learner.show_results().savefig("pets.png")
    learner.export("pets_model", overwrite=True)


if __name__ == "__main__":
    main()
