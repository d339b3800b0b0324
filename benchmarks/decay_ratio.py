"""Compares L2 with the loss gradient, for each group of parameters of a system at its own size.

    python -m benchmarks.decay_ratio --system=rjcma
    python -m benchmarks.decay_ratio --system=rjcma --learning_rate=1e-3 --steps=100

Prints |decay| / |gradient of the loss|, as norms of a group, with L2 on the numbers that are stored
and with L2 on the weights as the equations print them (``emojax.layers.scaling``). Above 1, Adam
follows the decay, and the group shrinks by about the learning rate a step whatever the loss wants.
Groups that ``config.train.no_decay`` names are marked: there the columns tell what L2 would do.

Sizes and coefficient are the configuration's. Windows are random, and one column of each stream
tells the labels. At the papers' learning rates a few steps change nothing; a larger one shows the
weights later in training.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.workload import Case, EmojaxTraining, random_batch
from emojax.commands import cli
from emojax.core.parameter_groups import group_norms
from emojax.core.session import Session
from emojax.layers.scaling import as_printed, recorded_scales
from emojax.types import Batch


def define_flags(define: cli.Flags) -> None:
    """Defines the command's flags."""
    define.string("system", "rjcma", "Name of a file in configs/.")
    define.integer("steps", 0, "Training steps before the comparison.", lower_bound=0)
    define.float("learning_rate", 0.0, "Of these steps; 0 for the configuration's.")
    define.float("weight_decay", 0.0, "Coefficient of L2; 0 for the configuration's.")
    define.list("groups", ["*"], "Patterns of the groups that are shown.")


def main(given: flags.FlagValues) -> None:
    """Prints the table of one system."""
    training = EmojaxTraining(Case(given.system))
    session = training.session
    training.batch = session.layout.batch(told_batch(session), grouped=False)
    decay = given.weight_decay or session.replicas[0].weight_decay
    rate = given.learning_rate or session.replicas[0].learning_rate
    training.hyper = dataclasses.replace(
        training.hyper,
        learning_rate=np.array([rate], np.float32),
        weight_decay=np.array([decay], np.float32),
    )
    for _ in range(given.steps):
        training.step()
    training.wait()
    print(f"# {given.system}: L2 of {decay:g} after {given.steps} steps of rate {rate:g}\n")
    head = ("group", "norm", "L2 on stored / loss", "L2 as printed / loss", "decays")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    spared = session.config.train.no_decay
    for group, (norm, stored, printed) in ratios(training, decay).items():
        if any(fnmatchcase(group, pattern) for pattern in given.groups):
            decays = "no" if any(fnmatchcase(group, pattern) for pattern in spared) else "yes"
            print(f"| {group} | {norm:.3g} | {stored:.2g} | {printed:.2g} | {decays} |")


def told_batch(session: Session) -> Batch:
    """Returns random windows whose labels are smoothed columns of their streams."""
    batch = random_batch(session)
    rows = [np.asarray(x_BSD, np.float32) for x_BSD in batch.streams.values()]
    span = session.window_spec.window

    def signal(column: int, size: int) -> np.ndarray:
        x_BT = np.mean([x[:, np.arange(span) * x.shape[1] // span, column] for x in rows], axis=0)
        smooth = np.ones(size) / size
        return np.tanh(np.apply_along_axis(np.convolve, 1, x_BT, smooth, "same") * size**0.5)

    labels = {
        task: np.stack([signal(c, 15) for c in range(x.shape[-1])], axis=-1).astype(np.float32)
        if task == "va"
        else x
        for task, x in batch.labels.items()
    }
    return dataclasses.replace(batch, labels=labels)


def ratios(training: EmojaxTraining, decay: float) -> dict[str, tuple[float, float, float]]:
    """Returns group -> its norm, and |decay| / |loss gradient| on stored and on printed weights."""
    learner = training.session.learner
    first = jax.tree.map(lambda leaf: leaf[0], (training.state, training.hyper))
    state, hyper = first
    key = jax.random.wrap_key_data(state.key)

    @jax.jit
    def pulls(params: Any) -> tuple[Any, Any]:
        with recorded_scales() as scales:
            grads, _ = jax.grad(learner.loss, has_aux=True)(
                params, state.model_state, training.batch, training.normalisation, hyper, key
            )
        return grads, as_printed(params, scales)

    grads, printed = pulls(state.params)

    def norms(tree: Any) -> dict[str, float]:
        lead = jax.tree.map(lambda leaf: leaf[None], tree)
        return {group: float(norm_R[0]) for group, norm_R in group_norms(lead).items()}

    of_loss, of_stored, of_printed = norms(grads), norms(state.params), norms(printed)
    found = {}
    for group, loss in of_loss.items():
        pair = (decay * of_stored[group], decay * of_printed[group])
        stored, printed_ratio = (x / loss if loss else np.inf if x else 0.0 for x in pair)
        found[group] = of_stored[group], stored, printed_ratio
    return found


COMMAND = cli.Command(main, define_flags)

if __name__ == "__main__":
    COMMAND.run()
