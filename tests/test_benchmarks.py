"""The benchmark's own claims: same outputs first, floors by hand, complete tables; no times."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import agreement, bench, context, machine, peak_memory, timing
from benchmarks.parts import replicas, scaling, systems
from benchmarks.random_store import random_store
from benchmarks.results import Column, Missing, Part, Table, format_number, write
from benchmarks.timing import Contender, Ratio, Timing, interleaved, ratio
from benchmarks.workload import Case, EmojaxTraining
from emojax.layers.convolution import CONVOLUTIONS
from emojax.specs import STREAMS
from emojax.studies.flops import count_flops
from emojax.training.memory_plan import bytes_text

pytestmark = pytest.mark.slow

TINY = Case(
    "rjcma",
    window=8,
    batch=2,
    streams=("ir50",),
    widths={"ir50": 6},
    model={
        "channels": {"ir50": (4,)},
        "recursions": 1,
        "head_width": 4,
        "kernel_size": 3,
    },
)


@pytest.fixture(scope="module")
def tiny() -> EmojaxTraining:
    return EmojaxTraining(TINY)


def tiny_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> context.Context:
    monkeypatch.setitem(context.QUICK, "rjcma", TINY)
    monkeypatch.setattr(context, "matmul_rate", lambda *_, **__: (2e9, {"jax": 2e9}))
    return context.Context(("rjcma",), tmp_path, quick=True, compile_mode="")


# ---- FLOPs ---------------------------------------------------------------------------------------


def test_flops_of_products_by_hand() -> None:
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert count_flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5
    # Backward: one product for each factor.
    loss = jax.jit(lambda a, b: jnp.sum(jnp.square(a @ b)))
    assert count_flops(jax.grad(loss, argnums=(0, 1)), a, b) == 3 * 2 * 3 * 4 * 5
    batched = jax.vmap(jnp.matmul)
    assert count_flops(batched, jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5))) == 7 * 2 * 3 * 4 * 5


def test_flops_skip_what_no_output_needs_and_repeat_loops() -> None:
    a = jnp.ones((4, 4))
    one = 2 * 4**3

    @jax.jit
    def both(a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return a @ a, a @ a @ a

    assert count_flops(both, a) == 3 * one
    assert count_flops(lambda a: both(a)[0], a) == one
    loop = lambda a: lax.scan(lambda c, _: (c @ a, None), a, None, length=6)[0]  # noqa: E731
    assert count_flops(loop, a) == 6 * one
    branch = lambda a: lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, a)  # noqa: E731
    assert count_flops(branch, a) == 2 * one
    assert count_flops(jax.checkpoint(lambda a: a @ a), a) == one


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("way", CONVOLUTIONS)
def test_flops_of_a_convolution_count_no_padding(way: str, dilation: int) -> None:
    batch, frames, width, taps, features = 2, 7, 3, 3, 5
    x, kernel = jnp.ones((batch, frames, width)), jnp.ones((taps, width, features))

    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        return CONVOLUTIONS[way](x, k, dilation, (taps - 1) * dilation)

    flops = count_flops(convolve, x, kernel)
    # Tap k of frame t looks at frame t - k * dilation.
    pairs = sum(t >= k * dilation for t in range(frames) for k in range(taps))
    dense = 2 * batch * frames * taps * width * features
    assert flops == (2 * batch * pairs * width * features if way == "convolution" else dense)
    if way == "convolution":
        replicated = jax.vmap(convolve)
        grouped = count_flops(replicated, jnp.ones((4, *x.shape)), jnp.ones((4, *kernel.shape)))
        assert grouped == 4 * flops
        both = jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 2), (0, 1))
        assert count_flops(both, x, kernel) == 3 * flops


# ---- Timing --------------------------------------------------------------------------------------


def test_interleaving_alternates_and_divides_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    order = []

    def takes(name: str, seconds: float) -> Any:
        def step() -> None:
            order.append(name)
            now[0] += seconds

        return step

    contenders = [Contender("a", takes("a", 2.0)), Contender("b", takes("b", 4.0), steps=8)]
    times = interleaved(contenders, seconds=0, block_seconds=0.1, rounds=(3, 9))
    assert order[4:] == ["a", "b", "b", "a", "a", "b"]
    assert times["a"].seconds == (2.0, 2.0, 2.0)
    assert times["b"].median == 0.5
    found = ratio(times["a"], times["b"])
    assert found == Ratio(4.0, 4.0, 4.0)


def test_a_contender_that_fails_is_left_out_with_its_reason() -> None:
    def fails() -> None:
        raise RuntimeError("no compiler\nand a long trace")

    contenders = [Contender("good", lambda: None), Contender("bad", fails)]
    times = interleaved(contenders, seconds=0, block_seconds=0, rounds=(1, 1))
    assert times["bad"] == Timing(failure="RuntimeError: no compiler")
    assert times["good"].median is not None
    assert ratio(times["good"], times["bad"]) is None


# ---- Results -------------------------------------------------------------------------------------


def test_tables_keep_every_cell_and_say_why_one_is_missing(tmp_path: Path) -> None:
    table = Table("Title", (Column("a", "A"), Column("b", "B|ms"), Column("c", "C")))
    table.add(a="x", b=1234.5678, c=Ratio(0.9, 1.0, 1.1))
    table.add(a="y", b=Missing("no torch"))
    table.add(a="z", b=float("nan"), c=1)
    with pytest.raises(ValueError, match="no such column: d"):
        table.add(a="z", d=1)
    write(tmp_path, {"machine": "m"}, [Part("p", [table], ["p.png"])])
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["header"] == {"machine": "m"}
    first, second, third = record["parts"][0]["tables"][0]["rows"]
    assert first == {"a": "x", "b": 1234.5678, "c": {"low": 0.9, "median": 1.0, "high": 1.1}}
    assert second["b"] is None
    assert second["reasons"] == {"b": "no torch", "c": "not measured"}
    assert third["reasons"] == {"b": "the result was nan"}
    text = (tmp_path / "bench.md").read_text()
    assert "| y | - [1] | - [2] |" in text
    assert "- [1] no torch" in text
    assert "B\\|ms" in text
    assert "![p](p.png)" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (1234.5678, "1,235"), (12.345, "12.3"), (0.012345, "0.0123"), (3, "3"),
     (0.00001234, "1.2e-05")],
)  # fmt: skip
def test_numbers_are_short(number: float, text: str) -> None:
    assert format_number(number) == text


def test_slopes_are_exponents() -> None:
    assert scaling.slope((1, 2, 4, 8), [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)
    assert scaling.slope((1, 2, 4), [5.0, Missing("no"), 20.0]) == pytest.approx(1)
    assert isinstance(scaling.slope((1, 2), [5.0, Missing("no")]), Missing)


# ---- Workloads -----------------------------------------------------------------------------------


def test_steps_of_one_dispatch_train_each(tiny: EmojaxTraining) -> None:
    many = EmojaxTraining(TINY, state=tiny.state, steps=3)
    assert many.contender("x").steps == 3
    arguments = many.state, many.batch, many.normalisation, many.hyper
    state, metrics = jax.eval_shape(many.dispatch, *arguments)
    assert metrics["loss"].shape == (3, 1)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tiny.state)
    assert count_flops(many.dispatch, *arguments) == 3 * tiny.flops()


def test_replicas_are_folds_and_targets() -> None:
    config = dataclasses.replace(TINY, replicas=12).config()
    assert config.replicas.folds == ("0", "1", "2", "3", "4", "5")
    assert config.replicas.targets == ("valence", "arousal")
    assert TINY.config().replicas.targets == ("valence",)
    assert set(TINY.without_dropout().model) >= {"dropout", "temporal_dropout"}


def test_a_random_store_has_the_folds_asked_for(tmp_path: Path) -> None:
    streams = {name: dataclasses.replace(STREAMS[name], width=2) for name in ("ir50", "egemaps")}
    store = random_store(tmp_path / "s", streams, ("va", "expr"), folds=3, frames=20)
    folds = [store.fold(str(i)) for i in range(3)]
    assert sorted(f.validation[0] for f in folds) == sorted(v.name for v in store.videos)
    assert all(len(f.train) == 2 and f.validation[0] not in f.train for f in folds)
    assert store.read(0).streams["egemaps"].rows_ND.shape == (66, 2)


# ---- PyTorch -------------------------------------------------------------------------------------


def test_same_outputs_are_found_and_others_refused(
    tiny: EmojaxTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    computed: dict[str, Any] = {}
    outputs_of = agreement._outputs

    def once(ours: EmojaxTraining) -> Any:
        if "outputs" not in computed:
            found = outputs_of(ours)
            computed["outputs"] = {
                train: (jax.tree.map(np.array, outputs), loss)
                for train, (outputs, loss) in found.items()
            }
        return computed["outputs"]

    monkeypatch.setattr(agreement, "_outputs", once)
    assert agreement.check_agreement(TINY, torch, state=tiny.state).greatest < 1e-4
    computed["outputs"][True][0]["va"][0, 0, 0] += 1e-2
    with pytest.raises(agreement.DisagreementError, match="outputs differ by"):
        agreement.check_agreement(TINY, torch, state=tiny.state)
    computed["outputs"][True][0]["va"][0, 0, 0] = np.nan
    with pytest.raises(agreement.DisagreementError, match="nan"):
        agreement.check_agreement(TINY, torch, state=tiny.state)


def systems_rows(here: context.Context) -> tuple[dict[str, Any], dict[str, Any]]:
    times, floors = systems.systems_part(here).tables
    return times.as_dict()["rows"][0], floors.as_dict()["rows"][0]


@pytest.fixture
def one_training(tiny: EmojaxTraining, monkeypatch: pytest.MonkeyPatch) -> EmojaxTraining:
    """Parts use the training that is there already, and measure no memory."""
    monkeypatch.setattr(systems, "EmojaxTraining", lambda *_, **__: tiny)
    short = functools.partial(interleaved, block_seconds=0, rounds=(2, 2))
    monkeypatch.setattr(systems, "interleaved", short)
    monkeypatch.setattr(systems, "measure_peaks", lambda requests, timeout: [1.0] * len(requests))
    return tiny


def test_systems_part_beside_pytorch(
    one_training: EmojaxTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    same = agreement.Agreement(0.0, 1e-6, 0.0)
    monkeypatch.setattr(systems, "check_agreement", lambda *_, **__: same)
    flops = one_training.flops()
    times, floors = systems_rows(tiny_context(tmp_path, monkeypatch))
    assert times["sizes"] == "2 x 8"
    assert times["difference"] == 1e-6
    assert times["to_eager"]["low"] <= times["to_eager"]["median"] <= times["to_eager"]["high"]
    assert times["reasons"].keys() == {"compiled", "to_compiled"}
    assert floors["gflop"] * 1e9 == flops
    assert floors["floor"] == pytest.approx(1e3 * flops / 2e9)
    assert floors["eager"] == pytest.approx(floors["floor"] / times["eager"])
    assert floors["memory"] == floors["torch_memory"] == 1.0
    # The step it timed is one that trains.
    assert np.asarray(one_training.state.step) > 1
    assert np.isfinite(one_training.metrics["loss"]).all()


def test_systems_part_without_pytorch(
    one_training: EmojaxTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tiny_context(tmp_path, monkeypatch)
    here.torch = Missing("no PyTorch here")
    times, floors = systems_rows(here)
    assert times["emojax"] > 0
    for key in ("eager", "to_eager", "difference"):
        assert times[key] is None
        assert times["reasons"][key] == "no PyTorch here"
    assert floors["reasons"]["torch_memory"] == "no PyTorch here"
    assert floors["emojax"] == pytest.approx(floors["floor"] / times["emojax"])


def test_other_outputs_are_not_timed(
    one_training: EmojaxTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")

    def refuse(*_: Any, **__: Any) -> None:
        raise agreement.DisagreementError("outputs differ by 1")

    monkeypatch.setattr(systems, "check_agreement", refuse)
    times, _ = systems_rows(tiny_context(tmp_path, monkeypatch))
    assert times["emojax"] > 0
    for key in ("eager", "compiled", "to_eager", "difference"):
        assert "outputs differ by 1" in times["reasons"][key]


def test_replicas_are_compared_by_windows_per_second(
    one_training: EmojaxTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"emojax, R = 1": 1.0, "emojax, R = 2": 1.5, systems.EAGER: 2.0}

    class Training:
        def __init__(self, case: Case) -> None:
            self.windows = case.replicas * TINY.batch
            self.case, self.session, self.state = case, one_training.session, one_training.state

        def contender(self, name: str) -> Contender:
            return Contender(name, lambda: None)

    monkeypatch.setattr(replicas, "EmojaxTraining", Training)
    monkeypatch.setattr(replicas, "QUICK_COUNTS", (1, 2))
    monkeypatch.setattr(replicas, "agreement", lambda *_: (0.0, None))
    eager = Contender(systems.EAGER, lambda: None)
    monkeypatch.setattr(replicas, "torch_contenders", lambda *_: [eager])
    timings = {name: Timing((value,) * 3, 1) for name, value in seconds.items()}
    monkeypatch.setattr(replicas, "interleaved", lambda *_, **__: timings)
    here = tiny_context(tmp_path, monkeypatch)
    here.torch = object()  # there, and never used: its contenders are those above
    monkeypatch.setattr(replicas, "allow_tf32", lambda *_: None)
    part = replicas.replicas_part(here)
    rows = part.tables[0].as_dict()["rows"]
    assert [(row["way"], row["replicas"]) for row in rows] == [
        ("emojax", 1), ("emojax", 2), ("torch eager", 1), ("torch.compile", 1),
    ]  # fmt: skip
    assert rows[1]["windows"] == pytest.approx(2 * TINY.batch / 1.5)
    assert rows[1]["to_sequential"]["median"] == pytest.approx(2 / 1.5)
    assert rows[1]["to_eager"]["median"] == pytest.approx(2 * 2 / 1.5)
    assert rows[3]["reasons"]["step"] == "not asked for"
    assert (tmp_path / part.pictures[0]).is_file()


@pytest.mark.parametrize(
    ("of_one", "groups"), [(1, ["1 2 4"]), (10, ["1 2", "1 4"]), (30, ["1 2", "1 4"])]
)
def test_what_memory_does_not_hold_at_once_is_timed_in_groups(
    of_one: int,
    groups: list[str],
    one_training: EmojaxTraining,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Training:
        def __init__(self, case: Case) -> None:
            self.windows, self.session = case.replicas, one_training.session

        def contender(self, name: str) -> Contender:
            return Contender(name, lambda: None)

    def bytes_of(_: Any, __: str, counts: list[int]) -> tuple[int, int]:
        return of_one * sum(counts), 80

    seen: list[str] = []

    def timed(contenders: list[Contender], **_: float) -> dict[str, Timing]:
        seen.append(" ".join(c.name.rpartition(" ")[2] for c in contenders))
        # The second group is measured while the machine is half as fast.
        found = {}
        for contender in contenders:
            try:
                contender.step()
                found[contender.name] = Timing((float(len(seen)),) * 3, 1)
            except MemoryError as error:
                found[contender.name] = Timing(failure=str(error))
        return found

    monkeypatch.setattr(replicas, "EmojaxTraining", Training)
    monkeypatch.setattr(replicas, "_bytes", bytes_of)
    monkeypatch.setattr(replicas, "agreement", lambda *_: (0.0, None))
    monkeypatch.setattr(replicas, "torch_contenders", lambda *_: [])
    monkeypatch.setattr(replicas, "interleaved", timed)
    part = replicas.replicas_part(tiny_context(tmp_path, monkeypatch))
    assert seen == groups
    rows = {row["replicas"]: row for row in part.tables[0].as_dict()["rows"] if row["step"]}
    assert rows[1]["step"] == 1e3
    if of_one < 30:
        # Beside the single training of its own group.
        assert rows[4]["to_sequential"]["median"] == 4
    else:
        assert 4 not in rows
        assert f"{bytes_text(120)} needed, {bytes_text(80)} there" in str(part.tables[0].as_dict())


# ---- The command ---------------------------------------------------------------------------------


def test_a_part_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(given: context.Context) -> Part:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(bench.PARTS, "systems", fails)
    monkeypatch.setitem(bench.PARTS, "feed", lambda given: Part("feed"))
    bad, good = bench.run(tiny_context(tmp_path, monkeypatch), ("systems", "feed"))
    assert bad.tables[0].as_dict()["rows"][0]["reasons"]["result"] == "RuntimeError: out of memory"
    assert good.name == "feed"


def test_scaling_measures_the_axes_that_were_asked_for(tmp_path: Path) -> None:
    for axes in (context.AXES, ("streams", "R")):
        here = context.Context(("rjcma",), tmp_path, axes=axes)
        assert {series.axis for series in scaling.series_of(here)} == set(axes)


def test_nothing_is_begun_when_time_is_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tiny_context(tmp_path, monkeypatch)
    here.minutes, here.started = 1.0, here.started - 61.0
    for part in bench.run(here, ("systems", "replicas", "protocol", "feed", "scaling", "kernels")):
        for table in part.tables:
            for row in table.as_dict()["rows"]:
                numbers = [v for k, v in row.items() if isinstance(v, float) and k != "size"]
                assert not numbers, (part.name, row)
                reasons = " ".join(row["reasons"].values())
                assert "out of time" in reasons or "fewer than two" in reasons


def test_memory_holds_at_least_state_and_batch(tiny: EmojaxTraining) -> None:
    request = peak_memory.Request(peak_memory.EMOJAX, TINY)
    assert peak_memory.measure_peaks([request], timeout=0) == [Missing("out of time")]
    if Path("/proc/self/clear_refs").exists():
        held = sum(leaf.nbytes for leaf in jax.tree.leaves((tiny.state, tiny.batch)))
        assert peak_memory.peak_of(tiny) >= held / 2**20


def test_matmul_rate_is_the_best_of_what_is_there() -> None:
    best, each = machine.matmul_rate("float32", size=32, repeats=3)
    assert {"jax": best} == each
    assert best > 0
