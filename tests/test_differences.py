"""Where systems differ from their papers: the lists, their conditions, and where they are shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from absl import flags

import emojax.systems
from emojax.commands.cli import Flags
from emojax.config_reading import as_plain
from emojax.differences import (
    Condition,
    Difference,
    Kind,
    all_of,
    find,
    holding,
    one_of,
    other_than,
    stated,
    without,
)
from emojax.errors import InputError
from emojax.papers.variants import Variant, read_variants
from emojax.reporting.paper_differences import complete, differences_from_paper
from emojax.shipped import config_folder, config_names
from tests.small_store import small_config

VARIANTS = {
    name: {variant.name: variant for variant in read_variants(config_folder() / f"{name}.py")}
    for name in config_names()
}


def listed(name: str) -> Sequence[Difference]:
    return next(iter(VARIANTS[name].values())).listed or ()


def values_of(name: str, variant: str = "", **overrides: Any) -> dict[str, Any]:
    """Returns a shipped configuration with keys overridden: "model__causal" for model.causal."""
    config = VARIANTS[name][variant].config()
    for key, value in overrides.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return complete(config)


def texts(name: str, variant: str = "", **overrides: Any) -> set[str]:
    entries = holding(listed(name), values_of(name, variant, **overrides))
    return {entry["text"] for entry in entries}


# -- conditions ----------------------------------------------------------------------------------

CASES: list[tuple[Any, list[Any], list[Any]]] = [
    # condition, values that satisfy it, values that do not
    (one_of(2), [2, 2.0, [1, 2]], [3, None, [], [1], "2"]),
    (one_of(False), [False], [0, True, None]),
    (one_of(0), [0, 0.0], [False, None]),
    (one_of("a", "b"), ["b", ["c", "a"]], ["c", ["c"], None]),
    (one_of((1, 2)), [[1, 2]], [[2, 1], [1], 1, None]),
    (one_of({}), [{}], [{"a": 1}, None, []]),
    (all_of("a", "b"), [["c", "b", "a"]], [["a"], "a", None]),
    (other_than(2), [3, [2, 3], "2"], [2, 2.0, [2], None, []]),
    (other_than("a", "b"), [["a", "c"]], [["a", "b"], ["b"]]),
    (other_than((1, 2)), [[2, 1], [1], []], [[1, 2], None]),
    (other_than(()), [[1]], [[], None]),
    (without("a"), [["b"], None, []], [["b", "a"], "a"]),
]


@pytest.mark.parametrize(("condition", "fits", "misses"), CASES)
def test_conditions(condition: Condition, fits: list[Any], misses: list[Any]) -> None:
    assert [condition.holds(value) for value in fits] == [True] * len(fits)
    assert [condition.holds(value) for value in misses] == [False] * len(misses)


def test_a_difference_needs_all_its_conditions_and_tells_their_values() -> None:
    both = Difference("text", "eq. 1", Kind.OURS, {"a.b": 1, "a.c": other_than(2)})
    always = Difference("always", "eq. 2", Kind.DIFFERS)
    values = {"a": {"b": 1, "c": 3}}
    expected = {"text": "text", "where": "eq. 1", "kind": "ours", "because": {"a.b": 1, "a.c": 3}}
    assert holding([both, always], values)[0] == expected
    assert holding([both, always], values)[1]["because"] == {}
    assert len(holding([both, always], {"a": {"b": 1, "c": 2}})) == 1
    assert len(holding([both, always], {"a": {"b": 2, "c": 3}})) == 1
    assert len(holding([both, always], {})) == 1
    paper = stated("a.b", 5, "section 1")
    assert holding([paper], values)
    assert not holding([paper], {"a": {"b": 5}})


# -- the lists -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_has_a_list(name: str) -> None:
    differences = listed(name)
    assert differences
    assert len({(entry.text, entry.where) for entry in differences}) == len(differences)
    for entry in differences:
        assert entry.text.endswith(".")
        assert entry.where
        assert isinstance(entry.kind, Kind)
    # The report finds a list by the name of the model.
    for variant in VARIANTS[name].values():
        assert variant.config().model.name == name


@pytest.mark.parametrize("name", config_names())
def test_every_condition_names_keys_that_there_are(name: str) -> None:
    of_variants = [complete(variant.config()) for variant in VARIANTS[name].values()]
    for entry in listed(name):
        for key in entry.when:
            known = [find(values, key) is not None for values in of_variants]
            assert any(known), f"{name}: no variant has {key}"


@pytest.mark.parametrize("name", config_names())
def test_the_papers_own_numbers_hold_in_the_paper_s_variant(name: str) -> None:
    values = values_of(name)
    wrong = [
        d.text for d in listed(name) if d.text.startswith("The paper has ") and d.holds(values)
    ]
    assert not wrong


def test_an_override_adds_and_removes_differences() -> None:
    plain = texts("emma_net")
    slower = texts("emma_net", train__learning_rate=0.01) - plain
    assert len(slower) == 1
    assert "0.02" in slower.pop()
    # Another fusion has other gaps in the paper, and the attention's are gone.
    gated = texts("emma_net", model__fusion="gating")
    assert any("softmax runs over the rows" in text for text in plain - gated)
    assert any("sigmoid gate" in text for text in gated - plain)
    assert texts("emma_net", "gating") == gated
    # A loss that is off is not a mean instead of a sum, but left out.
    off = texts("emma_net", model__reconstruction_weight=0.0)
    assert any("left out" in text for text in off - plain)
    assert any("Eq. 8 sums squares" in text for text in plain - off)
    both = texts("exptrm")
    assert any("ReLU" in text for text in both - texts("exptrm", "relu"))
    assert any("Adam;" in text for text in texts("exptrm", train__optimizer="adamw") - both)


def test_what_the_public_code_has_holds_for_the_variants_that_follow_it() -> None:
    assert not [text for text in texts("lfan") if text.startswith("The code has ")]
    assert any("kernel_size" in text for text in texts("lfan", model__kernel_size=3))
    # The paper's reading of LFAN's and RJCMA's training, and the code's.
    for name in ("lfan", "rjcma"):
        gone = texts(name) - texts(name, "upstream")
        for word in ("masked", "padded", "climb", "since the last release", "one of each window"):
            assert any(word in text for text in gone), (name, word)
    upstream = texts("rjcma", "upstream") - texts("rjcma")
    assert any("(e + 1) / 25" in text for text in upstream)
    assert any("model.recursions = 3" in text for text in upstream)


def test_options_that_follow_a_paper_to_the_letter_take_their_difference_away() -> None:
    cut = texts("tcn_transformer", data__window_count="floor")
    assert any("repeat frames or hold none" in text for text in texts("tcn_transformer") - cut)
    assert any("nothing else" in text for text in cut)
    left_out = texts("rjcma", data__unannotated="excluded")
    assert any("The paper excludes them" in text for text in texts("rjcma") - left_out)
    assert any("keeps the TCNs" in text or "no TCNs" in text for text in texts("rjcma", "jca"))
    staged = texts("multiscale_tcn") - texts("multiscale_tcn", "end_to_end")
    assert any("The TCNs in each branch are trained" in text for text in staged)


def test_fields_that_an_older_run_does_not_know_take_their_defaults() -> None:
    values = values_of("emma_net")
    old = copy.deepcopy(values)
    for field in ("causal", "fusion", "reconstruction_weight"):
        del old["model"][field]
    del old["data"]["evaluation_stride"], old["mesh"]
    assert differences_from_paper(old) == differences_from_paper(values)


# -- where they are shown ------------------------------------------------------------------------


def command(*arguments: str) -> None:
    found = flags.FlagValues()
    emojax.systems.define_flags(Flags(found))
    emojax.systems.main(found, *found(["systems", *arguments])[1:])


def test_systems_prints_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emojax.systems, "use_compilation_cache", lambda: None)
    monkeypatch.setenv("COLUMNS", "400")
    command("emma_net:gating", "--fast", "--format=json")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["system"] == "emma_net:gating"
    assert row["differences"] == differences_from_paper("emma_net:gating")
    command("emma_net:gating", "--fast")
    text = capsys.readouterr().out
    assert all(entry["text"] in text for entry in row["differences"])


def test_own_configurations(tmp_path: Path) -> None:
    """One with a list of its own, one of a shipped model without a list, one of an own model."""
    plain = as_plain(values_of("emma_net", model__fusion="concat"))
    start = "from ml_collections import ConfigDict\n"
    start += f"def get_config():\n    return ConfigDict({plain!r})\n\n"
    entry = "Difference('Ours.', 'eq. 1', Kind.OURS, {'data.batch_size': 4})"
    with_list = "from emojax.differences import Difference, Kind\n"
    with_list += f"DIFFERENCES = ({entry},)\n"
    (tmp_path / "own.py").write_text(with_list + start)
    (tmp_path / "like.py").write_text(start)
    (tmp_path / "none.py").write_text(start + "DIFFERENCES = ()\n")
    found = {name: _only(tmp_path / f"{name}.py").differences() for name in ("own", "like", "none")}
    assert found["own"] is not None
    assert [one["text"] for one in found["own"]] == ["Ours."]
    assert found["like"] == differences_from_paper("emma_net:concat")
    assert found["none"] == []
    assert differences_from_paper(small_config(tmp_path) | {"model": {"name": "mine"}}) is None
    assert differences_from_paper(small_config(tmp_path) | {"model": {}}) is None
    with pytest.raises(InputError) as caught:
        differences_from_paper(plain | {"nonsense": 1})
    assert caught.value.details["field"] == "config.nonsense"


def _only(file: Path) -> Variant:
    (variant,) = read_variants(file)
    return variant
