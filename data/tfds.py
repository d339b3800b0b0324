"""Writes a store as a TensorFlow Datasets data set, to be read by TFDS without TensorFlow.

python -m data.tfds --store=STORE --out=TFDS_DIR

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

_STORE = flags.DEFINE_string("store", None, "The store to be written.", required=True)
_OUT = flags.DEFINE_string("out", None, "Data directory of TFDS.", required=True)
_VERSION = flags.DEFINE_string("version", "1.0.0", "Of the data set.")
_CITATION = flags.DEFINE_string("citation", "", "BibTeX of whoever made the data.")
_LICENSE = flags.DEFINE_string("license", "", "Under which the data may be used.")
_HOMEPAGE = flags.DEFINE_string("homepage", "", "Of the data.")
_VIDEOS_PER_SHARD = flags.DEFINE_integer("videos_per_shard", 16, "Examples in one file.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace this version of the data set.")


def main() -> None:
    """Writes the data set and says how to open it."""
    cli.folder("out", _OUT.value)
    with Store(_STORE.value) as store:
        path = write_tfds(
            store,
            _OUT.value,
            version=_VERSION.value,
            citation=_CITATION.value,
            license_text=_LICENSE.value,
            homepage=_HOMEPAGE.value,
            videos_per_shard=_VIDEOS_PER_SHARD.value,
            overwrite=_OVERWRITE.value,
        )
        cli.tell(**store_facts(_STORE.value) | {"out": path_text(path)})
        counts = ", ".join(f"{part} {len(names)}" for part, names in store.partitions.items())
        cli.console(wide=False).print(
            f"{len(store)} videos ({counts}), {len(fold_splits(store))} folds\n"
            f'tfds.builder_from_directory("{path}").as_data_source(split="train")',
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    cli.run(main, summary="data.tfds")
