"""Tests the measurements and the output of ``python -m emojax.systems``."""

from __future__ import annotations

import csv
import functools
import io
import math
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from flax import linen as nn

import emojax.systems
from emojax.commands.cli import Flags
from emojax.core.session import Session, build_session
from emojax.core.state import init_variables
from emojax.errors import InputError
from emojax.papers.variants import discover, read_variants
from emojax.specs import StreamSpec
from emojax.studies.system_facts import (
    Reach,
    abstract_variables,
    forward_flops,
    parameter_counts,
    quick_compiling,
    receptive_field,
)
from tests.small_store import small_config

STREAMS = {
    "ir50": StreamSpec("ir50", 7, "visual"),
    "vggish": StreamSpec("vggish", 5, "audio"),
    "compare_lld": StreamSpec("compare_lld", 3, "audio", 100.0),
}
CHANNELS = {"ir50": [6, 6], "vggish": [4, 4]}


def session_of(streams: tuple[str, ...] = ("ir50", "vggish"), **fields: Any) -> Session:
    config = small_config(Path())
    window = fields.pop("window", 24)
    config["data"] |= {"streams": list(streams), "window": window, "stride": 12}
    config["model"] = fields
    config["replicas"]["targets"] = ["va"]
    return build_session(config, STREAMS, jax.devices()[:1])


def reach_of(**fields: Any) -> Reach:
    session = session_of(**fields)
    return receptive_field(session, abstract_variables(session))


# -- measurements --------------------------------------------------------------------------------

TCN = {"name": "lfan", "channels": CHANNELS, "kernel_size": 3, "modal_width": 4}
RNN = {"name": "recurrent_baselines", "fused": [], "recurrent": {"ir50": [4]}, "hidden": {}}
REACHES: dict[str, tuple[dict[str, Any], Reach]] = {
    # Two blocks of two convolutions with kernel 3: 2 * 2 * (1 + 2).
    "tcn": (TCN, Reach(12, 0)),
    "tcn_centred": (TCN | {"causal": False}, Reach(6, 6)),
    # 36 frames are more than the window holds.
    "tcn_beyond": (TCN | {"kernel_size": 7}, Reach(None, 0)),
    "static": (RNN | {"recurrent": {}, "hidden": {"ir50": 6}, "streams": ("ir50",)}, Reach(0, 0)),
    "recurrent": (RNN | {"streams": ("ir50",), "window": 240}, Reach(None, 0)),
    "recurrent_both_ways": (
        RNN | {"streams": ("ir50",), "causal": False},
        Reach(None, None),
    ),
    # A fresh block is the identity, and its initial weights hide what it connects.
    "attention_over_time": (
        {"name": "rjcma", "channels": CHANNELS, "head_width": 5, "recursions": 1},
        Reach(None, None),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REACHES)
def test_receptive_fields(case: str) -> None:
    fields, expected = REACHES[case]
    assert reach_of(**fields) == expected


def test_a_context_and_slow_rows_count_in_ticks() -> None:
    """Rows that cover several ticks, some of them outside the window."""

    class Echo(nn.Module):
        """Each tick is the sum of its row of ``slow`` and of the row before it."""

        @nn.compact
        def __call__(self, streams: Any, masks: Any, **_: Any) -> Any:
            x_BTD = nn.Dense(2)(streams["slow"])[:, 1:-1]
            x_BTD = x_BTD + nn.Dense(2)(streams["slow"])[:, :-2]
            return {"va": x_BTD.repeat(4, axis=1)}, {}

    stub: Any = types.SimpleNamespace(
        model=Echo(),
        window_spec=types.SimpleNamespace(
            window=12, lengths={"slow": 5}, ticks_per_row={"slow": 4}, context={"slow": 1}
        ),
        streams={"slow": StreamSpec("slow", 3, "audio", 2.0)},
    )
    variables = jax.eval_shape(
        stub.model.init, jax.random.key(0), {"slow": np.zeros((1, 5, 3))}, {"slow": None}
    )
    # The last tick sees its own row, ticks 8 to 11, and the one before, 4 to 7. The first sees
    # ticks 0 to 3 and, of the context, -4 to -1.
    assert receptive_field(stub, variables) == Reach(7, 3)


def test_parameters_are_those_of_the_real_model() -> None:
    session = session_of(**TCN)
    arguments = session.model, session.streams, session.window_spec.lengths
    init = functools.partial(init_variables, *arguments)
    params, _ = jax.jit(init, compiler_options=quick_compiling())(jax.random.key(0))
    counts = parameter_counts(abstract_variables(session))
    assert counts == {
        part: sum(np.size(leaf) for leaf in jax.tree.leaves(params[part])) for part in params
    }
    # Two convolutions and a 1x1 residual of widths 7 -> 6 -> 6, weight norm and biases.
    first = 3 * 7 * 6 + 3 * 6 * 6 + 2 * (6 + 6) + 7 * 6 + 6
    assert counts["encoder_ir50"] == first + 2 * 3 * 6 * 6 + 2 * (6 + 6)


def test_operations_are_counted_as_by_hand_and_by_xla() -> None:
    session = session_of(("ir50",), **(RNN | {"recurrent": {}, "hidden": {"ir50": 6}}))
    variables = abstract_variables(session)
    # Two dense layers, 24 frames, a product and a sum each.
    assert forward_flops(session, variables) == 2 * 24 * (7 * 6 + 6 * 2)

    session = session_of(**TCN)
    variables = abstract_variables(session)
    found = forward_flops(session, variables)
    streams = {name: np.zeros((1, 24, spec.width), np.float32) for name, spec in STREAMS.items()}
    streams = {name: streams[name] for name in session.streams}
    masks = {name: np.ones((1, 24), bool) for name in streams}
    lowered = jax.jit(lambda v, x: session.model.apply(v, x, masks, train=False)[0]).lower(
        variables, streams
    )
    by_xla = lowered.cost_analysis()["flops"]
    # XLA also counts what goes number by number, which in so narrow a network is much.
    assert 0.6 * by_xla < found < by_xla


def test_every_step_of_a_recurrence_counts() -> None:
    counts = []
    for window in (12, 24):
        session = session_of(("ir50",), **(RNN | {"window": window}))
        counts.append(forward_flops(session, abstract_variables(session)))
    # Gates from 7 inputs and 4 states, and the output.
    assert counts == [2 * window * (12 * (7 + 4) + 4 * 2) for window in (12, 24)]


def test_options_for_quick_compiling_change_no_result() -> None:
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    quick = jax.jit(lambda x: x @ x, compiler_options=quick_compiling())(x)
    assert math.isclose(quick, float(x @ x), rel_tol=1e-6)


# -- the command ---------------------------------------------------------------------------------

FILE = '''"""A system for tests (Nobody 2020).

More words.
"""
from ml_collections import ConfigDict


def get_config(variant=""):
    return VARIANTS[variant]()


def paper():
    """As in the paper, | with a bar."""
    return ConfigDict({config})


def wrong():
    config = paper()
    config.model.kernal_size = 3
    return config


def own():
    config = paper()
    config.data.streams = ("mine",)
    return config


VARIANTS = {{"": paper, "again": paper, "own": own}}
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = small_config(Path(), epochs=1)
    config["data"] |= {"streams": ("ir50", "vggish"), "window": 24, "stride": 12}
    config["model"] = dict(TCN)
    (tmp_path / "known.py").write_text(FILE.format(config=config))
    (tmp_path / "__init__.py").write_text("raise ValueError")
    return tmp_path


def command(*arguments: str) -> None:
    values = flags.FlagValues()
    emojax.systems.define_flags(Flags(values))
    emojax.systems.main(values, *values(["systems", *arguments])[1:])


@pytest.mark.slow
def test_all_variants_are_listed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emojax.systems, "use_compilation_cache", lambda: None)
    monkeypatch.setenv("COLUMNS", "160")  # a narrow table breaks words over lines
    command(f"--configs={folder}", "--format=csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["system"] for row in rows] == ["known", "known:again", "known:own"]
    session = session_of(**TCN)
    # The command knows the streams' real widths.
    real = build_session(session.config, emojax.systems.STREAMS, jax.devices()[:1])
    total = sum(parameter_counts(abstract_variables(real)).values())
    assert rows[0] == {
        "system": "known", "model": "lfan", "streams": "ir50 vggish", "tasks": "va",
        "parameters": str(total), "before": "12", "after": "0", "MFLOP": rows[0]["MFLOP"],
        "window/stride": "24/12", "reference": "A system for tests (Nobody 2020).",
    }  # fmt: skip
    assert float(rows[0]["MFLOP"]) == pytest.approx(
        forward_flops(real, abstract_variables(real)) / 24 / 1e6, rel=5e-3
    )
    # A stream that nobody knows leaves the rest of the row empty.
    assert [rows[2][column] for column in ("streams", "parameters", "before", "MFLOP")] == [
        "mine", "", "", ""
    ]  # fmt: skip

    command(str(folder / "known.py"), "--format=markdown", "--fast")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| known | lfan |")
    assert {line.count("|") for line in lines} == {11}
    command(f"--configs={folder}", "--fast")
    text = capsys.readouterr().out
    assert "needs --store" in text
    assert "before" not in text
    assert "known: A system for tests (Nobody 2020)." in text

    command(f"{folder / 'known.py'}:", "--fast")
    text = capsys.readouterr().out
    for words in ("As in the paper, | with a bar.", "encoder_vggish", f"{total:,}", "modal_width",
                  "512 wide, 24 rows", "va: ccc"):  # fmt: skip
        assert words in text


def test_problems_name_the_variant_and_spare_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emojax.systems, "use_compilation_cache", lambda: None)
    text = (folder / "known.py").read_text()
    (folder / "known.py").write_text(text.replace('"again": paper', '"wrong": wrong'))
    with pytest.raises(InputError) as caught:
        command(f"--configs={folder}", "--fast", "--format=csv")
    assert "known.py:wrong" in str(caught.value)
    assert "kernal_size" in str(caught.value)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["system"] for row in rows] == ["known", "known:own"]
    for arguments, words in (
        ([f"{folder / 'known.py'}:owm"], "did you mean own"),
        ([str(folder / "nothere.py")], "nothere.py"),
        (["a.py", "b.py"], "NAME:VARIANT"),
        ([f"--configs={folder / 'nowhere'}"], "no folder"),
    ):
        with pytest.raises(InputError) as caught:
            command(*arguments)
        assert words in str(caught.value)


def test_files_that_are_no_configurations(tmp_path: Path) -> None:
    cases = {"broken": "def get_config(:", "empty": "", "raises": "raise ValueError('oh no')"}
    expected = {"broken": "SyntaxError", "empty": "get_config()", "raises": "oh no"}
    for name, text in cases.items():
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            read_variants(file)
        assert expected[name] in str(caught.value)
        assert file.name in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        discover(tmp_path)
    # A file of one configuration needs no table.
    file.write_text("def get_config():\n    'Mine.'\n    return 1\n")
    (variant,) = read_variants(file)
    assert (variant.title, variant.summary, variant.config()) == ("raises", "Mine.", 1)
