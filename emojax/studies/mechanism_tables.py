"""Tables of the study of mechanisms: effects, seeds, norms of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emojax.core.parameter_groups import group_norms
from emojax.prediction.trained_run import TrainedRun
from emojax.reporting.pictures import shown_scores
from emojax.studies.mechanism_study import MechanismEffect
from emojax.studies.study_output import StudyTable

_COLUMNS = ("task", "score", "mechanism", "how", "becomes")


def mechanism_tables(
    found: Sequence[MechanismEffect], run: TrainedRun, title: str, bootstrap: str
) -> list[StudyTable]:
    """Returns the tables of effects, of effects by seed, and of norms.

    Args:
        found: the effects that ``mechanism_study`` returns.
        run: the run.
        title: the title of the first table.
        bootstrap: a caption about the draws of the bootstrap.
    """
    each = [_identity(one) | _numbers(one) for one in found]
    of_task: dict[str, list[str]] = {}
    for one in found:
        of_task.setdefault(one.task, []).append(one.score)
    brief = [row for row in each if row["score"] in shown_scores(row["task"], of_task[row["task"]])]
    brief.sort(key=lambda row: (list(of_task).index(row["task"]), row["score"]))
    seeds = [
        _identity(one) | {"seed": seed, "intact": a, "altered": b, "drop": a - b}
        for one in found
        for seed, (a, b) in one.seeds.items()
    ]
    count = len(found[0].seeds)
    caption = f"low, high: 95 % interval of the drop; {bootstrap}."
    if count > 1:
        caption += (
            f" Means over {count} seeds; least, greatest: over the seeds' drops; "
            "seeds' range: greatest minus least score as trained."
        )
    norms = norm_rows(run)
    fallen = [row for row in norms if row["share"] is not None and row["share"] < 0.5]
    return [
        StudyTable("mechanisms", title, each, brief, caption),
        StudyTable("seeds", "", seeds, []),
        StudyTable(
            "norms",
            "parameter groups with less than half of their norm at the start",
            norms,
            fallen,
            "norms of the best weights, means over replicas; all groups are in norms.csv",
        ),
    ]


def norm_rows(run: TrainedRun) -> list[dict[str, Any]]:
    """Returns a row for each parameter group: its norm, its norm at the start, their quotient.

    Norms are means over replicas that did not diverge; "least share" is the smallest quotient of
    any replica. The start is drawn again from the replicas' seeds; it is empty for a run that began
    with the weights of another one.
    """
    kept_R = ~run.lost_R
    now = run.session.layout.fetch(group_norms(run.best["params"]))
    known = not run.session.config.train.init_from
    start = run.session.layout.fetch(group_norms(run.session.init_state().params)) if known else {}
    rows = []
    for group, norm_R in now.items():
        norm_R = np.asarray(norm_R)[kept_R]
        start_R = np.asarray(start[group])[kept_R] if known else None
        share_R = norm_R / start_R if start_R is not None and (start_R > 0).all() else None
        rows.append(
            {
                "group": group,
                "start": None if start_R is None else float(start_R.mean()),
                "trained": float(norm_R.mean()),
                "share": None if share_R is None else float(share_R.mean()),
                "least share": None if share_R is None else float(share_R.min()),
            }
        )
    return rows


def _identity(one: MechanismEffect) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _COLUMNS}


def _numbers(one: MechanismEffect) -> dict[str, Any]:
    numbers = ("intact", "altered", "drop", "low", "high", "p")
    row: dict[str, Any] = {name: getattr(one, name) for name in numbers}
    if len(one.seeds) > 1:
        row |= {"least": one.least, "greatest": one.greatest, "seeds' range": one.intact_range}
    return row
