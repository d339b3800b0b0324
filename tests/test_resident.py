"""The resident feed: the same batches as the stream feed, bit for bit, and the same predictions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.datasets import resident
from emojax.datasets.pipeline import (
    FILLER,
    LoadWindow,
    evaluation_batches,
    evaluation_entries,
    stack,
    training_feeds,
    window_list,
)
from emojax.datasets.resident import (
    ResidentData,
    entry_feeds,
    gather,
    load_resident,
    obstacle,
    resident_bytes,
)
from emojax.datasets.source import Store
from emojax.datasets.ticks import count_ticks
from emojax.datasets.transforms import RESAMPLERS, resample
from emojax.datasets.window_spec import WindowSpec
from tests.training_runs import assert_same_bits
from tests.uneven_store import LENGTHS, NAMES, build_uneven_store, names_of


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Returns the same videos as float16 and as float32."""
    folder = tmp_path_factory.mktemp("uneven")
    return {dtype: build_uneven_store(folder / dtype, dtype) for dtype in ("float16", "float32")}


@pytest.fixture(scope="module")
def store(stores: dict[str, Store]) -> Store:
    return stores["float16"]


def windows_of(**changes: Any) -> WindowSpec:
    fields: dict[str, Any] = {
        "streams": NAMES,
        "tasks": ("va", "expr"),
        "window": 12,
        "stride": 7,
        "resampling": {"slow": "linear", "fast": "mean"},
    }
    return WindowSpec(**(fields | changes))


def gather_in(spec: WindowSpec) -> Callable[..., Any]:
    """Returns one program for all batches of these windows."""
    return jax.jit(functools.partial(gather, spec=spec))


def gathered(data: ResidentData, entries: Any, spec: WindowSpec) -> Any:
    return gather_in(spec)(data, np.asarray(entries, np.int32))


# -- the same batches --------------------------------------------------------------------------


@st.composite
def specs(draw: st.DrawFn) -> WindowSpec:
    window = draw(st.sampled_from((4, 12, 30)))
    clock = draw(st.sampled_from((0.0, 6.0, 7.5)))
    align_end = draw(st.booleans())
    rates = {}
    if clock:
        # Rows a window: of whole ticks, of broken ones, and several a tick.
        rows = st.sampled_from((1, 2, 3, window - 1, window, 2 * window, 3 * window // 2))
        rates = {name: draw(rows) * clock / window for name in NAMES if draw(st.booleans())}
    return WindowSpec(
        streams=NAMES,
        tasks=("va", "expr"),
        window=window,
        stride=draw(st.integers(1, window)),
        evaluation_stride=draw(st.integers(0, window)),
        resampling={name: draw(st.sampled_from(sorted(RESAMPLERS))) for name in NAMES},
        align_end=align_end,
        window_count="cover" if align_end else draw(st.sampled_from(("cover", "floor"))),
        unannotated="masked" if clock else draw(st.sampled_from(("masked", "excluded"))),
        random_offset=draw(st.booleans()),
        clock=clock,
        rates=rates,
        context={name: draw(st.integers(0, 5)) for name in NAMES},
        fill=draw(st.sampled_from(("zeros", "nearest"))),
    )


def all_entries(store: Store, spec: WindowSpec) -> list[tuple[int, int]]:
    """Returns every window that can come up in training or evaluation, and one that fills up."""
    entries = [(FILLER, 0)]
    for evaluation in (False, True):
        entries += window_list(store, names_of(store), spec, evaluation=evaluation)
    if spec.random_offset:
        for number in range(len(store.videos)):
            most = max(0, count_ticks(store, number, spec) - spec.window)
            entries += [(number, start) for start in range(most + 1)]
    return entries


@settings(max_examples=12)
@given(spec=specs(), dtype=st.sampled_from(("float16", "float32")))
def test_gathered_windows_equal_those_read_from_the_store_bit_for_bit(
    stores: dict[str, Store], spec: WindowSpec, dtype: str
) -> None:
    store = stores[dtype]
    assert obstacle(store, spec) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "_ROWS_AT_ONCE", 17)
        data = load_resident(store, names_of(store), spec)
    leaves = jax.tree.leaves(data)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert {rows.dtype for rows in data.streams.values()} == {np.dtype(dtype)}
    # Exact, and known before anything is read.
    assert resident_bytes(store, names_of(store), spec) == sum(leaf.nbytes for leaf in leaves)
    entries = all_entries(store, spec)
    load = LoadWindow(store, spec)
    assert_same_bits(gathered(data, entries, spec), stack([load(entry) for entry in entries]))


def test_axes_that_precede_the_batch_are_kept(store: Store) -> None:
    spec = windows_of(clock=6.0, rates={"slow": 2.0}, context={"slow": 2})
    data = load_resident(store, names_of(store), spec)
    entries = np.asarray(window_list(store, names_of(store), spec)[:12], np.int32)
    flat = gathered(data, entries, spec)
    grouped = gathered(data, entries.reshape(2, 6, 2), spec)
    assert_same_bits(grouped, jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), flat))


def test_a_row_is_the_same_in_every_window_that_holds_it(store: Store) -> None:
    """Its neighbours in the window decide nothing, however uneven the times are."""
    spec = windows_of(stride=1, resampling=dict.fromkeys(NAMES, "mean"))
    load = LoadWindow(store, spec)
    for first, second in itertools.pairwise(window_list(store, ["video-6"], spec)):
        a, b = load(first), load(second)
        for name in NAMES:
            np.testing.assert_array_equal(a.streams[name][1:], b.streams[name][:-1])
            np.testing.assert_array_equal(a.stream_valid[name][1:], b.stream_valid[name][:-1])


def test_a_mean_does_not_depend_on_rows_outside_it() -> None:
    """Differences of running sums would: of 1e13 + 0.1 float64 keeps two digits of the 0.1."""
    rows_ND = np.full((40, 1), 0.1, np.float32)
    rows_ND[:10] = 1e13
    pts_N, ticks_T = np.arange(40) / 10 + 0.05, np.arange(4) + 0.5
    rows_TD, valid_T = resample(rows_ND, pts_N, np.ones(40, bool), ticks_T, "mean")
    assert valid_T.all()
    np.testing.assert_array_equal(rows_TD[1:], np.float32(0.1))


# -- which videos ------------------------------------------------------------------------------


def test_a_video_of_several_folds_lies_there_once(store: Store) -> None:
    spec = windows_of()
    folds = [store.fold(name) for name in ("a", "b")]
    wanted = [name for fold in folds for name in (*fold.train, *fold.validation)]
    assert len(wanted) > len(store.videos)
    seen: list[tuple[int, int]] = []
    data = load_resident(store, wanted, spec, lambda *counts: seen.append(counts))
    assert seen == [(k + 1, len(store.videos)) for k in range(len(store.videos))]
    assert resident_bytes(store, wanted, spec) == resident_bytes(store, names_of(store), spec)
    assert_same_bits(data, load_resident(store, names_of(store), spec))
    assert len(data.streams["frames"]) == sum(LENGTHS)


def test_some_videos_in_any_order_are_numbered_as_in_the_store(store: Store) -> None:
    spec = windows_of(random_offset=True)
    some = ["video-5", "video-1", "video-3"]
    data = load_resident(store, some, spec)
    assert resident_bytes(store, some, spec) == sum(x.nbytes for x in jax.tree.leaves(data))
    np.testing.assert_array_equal(np.flatnonzero(data.num_ticks), [1, 3, 5])
    np.testing.assert_array_equal(data.first_row["slow"] >= 0, data.num_ticks > 0)
    entries = [entry for entry in all_entries(store, spec) if entry[0] in (1, 3, 5)]
    load = LoadWindow(store, spec)
    batch = gathered(data, [*entries, (6, 3)], spec)
    cut = jax.tree.map(lambda x: np.asarray(x)[:-1], batch)
    assert_same_bits(cut, stack([load(entry) for entry in entries]))
    # A video that is not there is padding, and never another video's rows.
    last = jax.tree.map(lambda x: np.asarray(x)[-1], batch)
    for leaf in (last.stream_mask, last.stream_valid, last.label_mask, last.streams):
        assert not any(np.any(x) for x in leaf.values())
    assert (last.frame_ids == -1).all()


def test_rows_are_stored_again_only_for_starts_that_lie_between_them(store: Store) -> None:
    clocked = {"clock": 6.0, "rates": {"slow": 2.0}}
    rows = {
        key: len(load_resident(store, ["video-6"], windows_of(**options)).streams["slow"])
        for key, options in {
            "whole": clocked | {"stride": 6},
            "between": clocked | {"stride": 7},
            "drawn": clocked | {"stride": 6, "random_offset": True},
            "evaluation": clocked | {"stride": 6, "evaluation_stride": 4},
        }.items()
    }
    ticks = windows_of(**clocked).num_ticks(store.videos[6])
    assert rows["whole"] == -(-ticks // 3)
    assert rows["between"] == rows["drawn"] == rows["evaluation"] == ticks + 2


def test_more_rows_than_can_be_numbered_are_an_obstacle(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_MOST_ROWS", 100)
    reason = obstacle(store, windows_of())
    assert reason == f"{sum(LENGTHS)} ticks are more than can be numbered"
    assert obstacle(store, windows_of(), ["video-5"]) is None


# -- the same order ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"random_offset": True}])
def test_entries_come_in_the_order_of_the_stream_and_their_states_are_the_same(
    store: Store, options: dict[str, Any]
) -> None:
    spec = windows_of(**options)
    samplers = [("a", 0), ("b", 0), ("a", 5)]
    streams = training_feeds(store, samplers, spec, batch_size=3)
    entries = entry_feeds(store, samplers, spec, batch_size=3)
    data = load_resident(store, names_of(store), spec)
    run = gather_in(spec)

    def check(read: Any, of_entries: Any) -> None:
        batch = next(read)
        entries_B2 = next(of_entries)
        assert (entries_B2.dtype, entries_B2.shape) == (np.int32, (3, 2))
        assert_same_bits(run(data, entries_B2), batch)
        assert read.get_state() == of_entries.get_state()

    for read, of_entries in zip(streams, entries, strict=True):
        for _ in range(6):
            check(read, of_entries)
    # Either goes on from where the other was.
    fresh = entry_feeds(store, samplers, spec, batch_size=3)
    fresh[0].set_state(streams[0].get_state())
    check(streams[0], fresh[0])
    again = training_feeds(store, samplers, spec, batch_size=3)
    again[2].set_state(entries[2].get_state())
    check(again[2], entries[2])


def test_evaluation_entries_are_those_of_the_stream(store: Store) -> None:
    spec = windows_of(evaluation_stride=5)
    data, run = load_resident(store, names_of(store), spec), gather_in(spec)
    for more in (None, 25):
        found = np.array(
            evaluation_entries(store, ["video-6"], spec, batch_size=4, num_batches=more), np.int32
        )
        read = list(evaluation_batches(store, ["video-6"], spec, batch_size=4, num_batches=more))
        assert found.shape == (len(read), 4, 2)
        for entries_B2, batch in zip(found, read, strict=True):
            assert_same_bits(run(data, entries_B2), batch)
