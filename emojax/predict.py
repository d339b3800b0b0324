"""Predicts whole videos: ``python -m emojax.predict --checkpoint=RUN --out=FOLDER``.

Writes one CSV per video and task, a row for every frame. Replicas of all folds and seeds are
averaged; name a fold to use only its own.
"""

from __future__ import annotations

from absl import flags
from rich.console import Console

from emojax import cli
from emojax.engine.evaluator import ensemble
from emojax.engine.restore import open_run
from emojax.engine.results import write_predictions
from emojax.engine.runtime import use_compilation_cache
from emojax.errors import InputError

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The --workdir of a training run.", required=True
)
_STEP = flags.DEFINE_integer("step", None, "Which saved step; the latest by default.")
_STORE = flags.DEFINE_string("store", "", "Store with the videos; the training store by default.")
_PARTITION = flags.DEFINE_enum(
    "partition", "test", ["train", "validation", "test", "all"], "Which of the store's videos."
)
_VIDEOS = flags.DEFINE_list("videos", [], "Names of single videos, instead of a partition.")
_FOLD = flags.DEFINE_string("fold", "", "Use only the replicas of this fold.")
_OUT = flags.DEFINE_string("out", None, "Folder for the CSV files.", required=True)


def main() -> None:
    """Predicts with the best weights of each replica and writes the CSV files."""
    use_compilation_cache()
    out = cli.folder("out", _OUT.value)
    run = open_run(_CHECKPOINT.value, _STEP.value)
    store = run.open_store(_STORE.value, labelled=False)
    session = run.session
    if _VIDEOS.value:
        names = [store.videos[store.index_of(name)].name for name in _VIDEOS.value]
    elif _PARTITION.value == "all":
        names = [video.name for video in store.videos]
    else:
        names = list(store.partitions.get(_PARTITION.value, ()))
    if not names:
        raise InputError(
            f"The store has no {_PARTITION.value!r} videos.",
            file=store.path,
            field="--partition",
            found=_PARTITION.value,
            expected="one of " + ", ".join(k for k, v in store.partitions.items() if v) + ", all",
        )
    members = [r for r, replica in enumerate(session.replicas) if _FOLD.value in ("", replica.fold)]
    if not members:
        raise InputError(
            "The checkpoint has no replica of this fold.",
            field="--fold",
            found=_FOLD.value,
            expected="one of " + ", ".join(map(str, session.folds.keys)),
        )
    per_replica = run.predict(store, [names] * len(session.folds.keys))
    count = write_predictions(out, store, ensemble(session, per_replica, members))
    Console().print(
        f"{count} files for {len(names)} videos, mean of {len(members)} replica(s): {out}",
        highlight=False,
    )


if __name__ == "__main__":
    cli.run(main)
