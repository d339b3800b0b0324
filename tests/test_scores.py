"""The table of scores: names are taken apart once, and every number of a run has its row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emojax.ops import scores
from emojax.ops.json_values import json_values
from emojax.ops.scores import PANELS, SCORES, ScoreKind, score_kind, split_score, without_parts
from emojax.ops.tasks import TASK_OPS
from emojax.specs import TASKS


def test_every_name_is_a_kind_and_a_part() -> None:
    for task, ops in TASK_OPS.items():
        for name in ops.score_names:
            kind, part = split_score(name)
            assert kind in SCORES
            assert part in (*TASKS[task].labels, *scores.WHOLES, "")
            assert name == (f"{kind}_{part}" if part else kind)
    assert split_score("binary_cross_entropy") == ("binary_cross_entropy", "")
    assert split_score("f1_Upper_Lip") == ("f1", "Upper_Lip")
    # No kind ends inside a word.
    assert split_score("accuracyx") == ("accuracyx", "")
    with pytest.raises(KeyError):
        score_kind("gradient_norm")


def test_rows_are_whole() -> None:
    assert all(name == kind.name and kind.panel in (*PANELS, "") for name, kind in SCORES.items())
    assert {name for name, kind in SCORES.items() if kind.higher_is_better is False} == {
        "rmse", "cross_entropy", "binary_cross_entropy", "loss",
    }  # fmt: skip


def test_one_row_is_enough_for_a_new_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "hit_rate", ScoreKind("hit_rate", "hits", decimals=1))
    assert split_score("hit_rate_mean") == ("hit_rate", "mean")
    assert score_kind("hit_rate_Fear").text(0.26) == "0.3"
    assert score_kind("hit_rate").text(float("nan")) == score_kind("hit_rate").text(None) == "–"


def test_a_missing_target_takes_the_means_with_it() -> None:
    names = ["ccc_valence", "ccc_arousal", "ccc_mean", "rmse_arousal", "accuracy", "f1_macro"]
    assert without_parts(names, ["arousal"]) == ["ccc_valence", "accuracy", "f1_macro"]
    assert without_parts(names, []) == names


def test_json_holds_whatever_a_run_has() -> None:
    value = {
        1: np.float32("nan"),
        "b": [np.arange(3), (True, None, Path("a"))],
        "c": {"inf": float("inf"), "n": np.int64(7), "x": 0.1},
    }
    found = json_values(value)
    assert json.loads(json.dumps(found, allow_nan=False)) == found == {
        "1": None,
        "b": [[0, 1, 2], [True, None, "a"]],
        "c": {"inf": None, "n": 7, "x": 0.1},
    }  # fmt: skip
