"""Writes a store as a TensorFlow Datasets data set, to be read by TFDS without TensorFlow.

emojax tfds --store=STORE --out=TFDS_DIR

import tensorflow_datasets as tfds
builder = tfds.builder_from_directory("TFDS_DIR/NAME/1.0.0")
videos = builder.as_data_source(split="train")
fold = builder.as_data_source(split=builder.info.metadata["folds"]["0"]["train"])
"""

from __future__ import annotations

from absl import flags

from emojax.commands import cli
from emojax.commands.summary import path_text
from emojax.datasets.source import Store
from emojax.datasets.store import store_facts
from emojax.datasets.tfds_dataset import fold_splits, write_tfds


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("store", None, "The store to be written.", required=True)
    define.string("out", None, "Data directory of TFDS.", required=True)
    define.string("version", "1.0.0", "Version of the data set.")
    define.string("citation", "", "BibTeX entry of the data.")
    define.string("license", "", "Under which the data may be used.")
    define.string("homepage", "", "Homepage of the data.")
    define.integer("videos_per_shard", 16, "Examples in one file.")
    define.bool("overwrite", False, "Replace this version of the data set.")


def main(given: flags.FlagValues) -> None:
    """Writes the data set and prints the code that opens it."""
    cli.folder("out", given.out)
    with Store(given.store) as store:
        path = write_tfds(
            store,
            given.out,
            version=given.version,
            citation=given.citation,
            license_text=given.license,
            homepage=given.homepage,
            videos_per_shard=given.videos_per_shard,
            overwrite=given.overwrite,
        )
        cli.tell(**store_facts(given.store) | {"out": path_text(path)})
        counts = ", ".join(f"{part} {len(names)}" for part, names in store.partitions.items())
        cli.console(wide=False).print(
            f"{len(store)} videos ({counts}), {len(fold_splits(store))} folds\n"
            f'tfds.builder_from_directory("{path}").as_data_source(split="train")',
            highlight=False,
            soft_wrap=True,
        )


COMMAND = cli.Command(main, define_flags, summary="data.tfds")

if __name__ == "__main__":
    COMMAND.run()
