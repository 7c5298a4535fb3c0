"""`finetune pack`: a folder of images, or Parquet files, as shards."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from finetune.callbacks.work_bar import work_bar
from finetune.cli.parser import CommandParser
from finetune.data.images.pipeline import default_num_workers
from finetune.data.packing import PackSettings, pack
from finetune.data.sources.parquet import ParquetLayout, are_parquet
from finetune.wording import counted


def parser() -> CommandParser:
    defaults = PackSettings()
    made = CommandParser(
        "pack",
        "Packs a folder with one folder of images a class into tar files, in the layout of\n"
        "WebDataset: fewer and larger files, for network disks and object stores. Training from\n"
        "them is the same as from the folder, unless --size makes the images smaller. Images in\n"
        "Parquet files are packed, too, in the order of their rows.",
        [
            "finetune pack photos/ shards/",
            "finetune pack photos/ shards/ --size 256 --megabytes 500",
            "finetune pack photos/valid shards/ --name valid",
            "finetune pack 'data/train-*.parquet' shards/",
            "finetune train --shards 'shards/train-{0000..0007}.tar'",
        ],
    )
    made.add_argument(
        "source", help="folder with one folder of images a class, or Parquet files: 'a-*.parquet'"
    )
    made.add_argument("target", help="folder for the shards; others in it stay")
    made.option("name", str, defaults.name, help="what the names of the shards begin with")
    made.option("megabytes", float, defaults.megabytes, help="size at which a shard is full")
    made.option("images", int | None, help="most images of a shard; null is as many as fit")
    made.option("size", int | None, help="shorter side of larger images in pixels, such as 256")
    made.option("seed", int, defaults.seed, help="number that decides the order of a folder")
    made.option("image_column", str | None, help="of Parquet files; null finds it")
    made.option("label_column", str | None, help="of Parquet files; null finds it")
    made.option("num_workers", int, default_num_workers(), help="threads that read")
    made.switch("json", help="what was packed as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Packs, and prints the pattern of the shards, which is returned with the numbers."""
    settings = PackSettings(**{field.name: options[field.name] for field in fields(PackSettings)})
    columns = {name: options[name] for name in ("image_column", "label_column")}
    if not are_parquet(options["source"]) and any(columns.values()):
        raise ValueError("image_column= and label_column= are for Parquet files; leave them out")
    with work_bar(shown=True) as tell:
        packed = pack(
            options["source"],
            Path(options["target"]),
            settings,
            lambda done, total: tell("pack", done, total, "images"),
            ParquetLayout(**columns),
        )
    print(
        f"{counted(packed.images, 'image')} of {len(packed.classes)} classes in "
        f"{counted(packed.shards, 'shard')}, {packed.bytes / 1e6:,.1f} MB"
    )
    if packed.renamed:
        print(f"{counted(packed.renamed, 'image')} renamed, since a shard's names have one dot")
    print(f"  finetune train --shards {shlex.quote(packed.pattern)}")
    return packed._asdict(), 0
