"""Whole videos: as one sequence, part by part, and in memory that does not grow with them."""

from __future__ import annotations

import dataclasses
import re
import tracemalloc
from pathlib import Path
from typing import Any

import crc32c
import jax
import numpy as np
import pytest

from emojax.config_schema import RunConfig
from emojax.core.session import Session, build_session, fold_normalisation
from emojax.core.step import forward
from emojax.datasets import tfrecord
from emojax.datasets.folds import official_and_blocks
from emojax.datasets.pipeline import LoadWindow, stack
from emojax.datasets.record import StreamRows, VideoRecord
from emojax.datasets.source import Store
from emojax.datasets.store import StoreWriter
from emojax.errors import InputError
from emojax.prediction.full_sequence import full_sequence_session, model_extent
from emojax.prediction.long_videos import predict_groups, video_groups
from emojax.prediction.predictor import Predictions
from emojax.prediction.trained_run import TrainedRun
from emojax.specs import StreamSpec
from tests.small_models import make_inputs, random_variables, shipped, small_session
from tests.small_store import build_small_store, small_config

# Parts that are all whole, and videos shorter than a part.
VIDEOS = ["train-2", "train-3", "validation-0"]
PART = 24

MODELS: dict[str, dict[str, Any]] = {
    "lfan": {
        "channels": {"ir50": [4, 4], "vggish": [4]},
        "causal": False,
        "kernel_size": 3,
        "modal_width": 4,
    },
    "multiscale_tcn": {
        "channels": {"ir50": [4]},
        "kernel_sizes": [3, 5],
        "hidden": 5,
        "leader": "ir50",
        "branch_heads": False,
    },
    "recurrent_baselines": {
        "hidden": {"ir50": 5},
        "recurrent": {"vggish": [4, 3]},
        "fused": [4],
    },
    "emma_net": {"fusion": "current_face", "anchor": "ir50", "head_width": 5},
}


def with_batches_of(config: RunConfig, size: int) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=size))


def session_of(store: Store, model: str, data: dict[str, Any] | None = None) -> Session:
    """Returns two replicas, of two folds, of a small model."""
    config = small_config(store.path)
    config["model"] = {"name": model, **MODELS[model]}
    config["data"] |= {"batch_size": 3, **(data or {})}
    if model == "multiscale_tcn":
        config["data"]["streams"] = ["ir50"]
    if model == "emma_net":
        # A row of the other stream covers two ticks: parts have to begin with one.
        config["data"] |= {"clock": 20.0, "rates": {"vggish": 10.0}, "window": 30}
    config["replicas"] = {"folds": ["0", "1"], "targets": ["all"], "seeds": [0]}
    return build_session(config, store.streams, jax.devices()[:1])


def run_of(session: Session, store: Store) -> TrainedRun:
    """Returns a run whose weights are random, others in each replica."""
    each = [random_variables(session, seed) for seed in range(len(session.replicas))]
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    params = variables.pop("params")
    return TrainedRun(
        workdir=Path(store.path),
        session=session,
        step=0,
        best={"params": params, "model_state": variables},
        normalisation=fold_normalisation(store, session.folds.keys, session.streams),
        store_path=str(store.path),
        store_checksum=store.metadata["checksum"],
        lost_R=np.zeros(len(session.replicas), bool),
        branches_R=None,
    )


def in_parts(run: TrainedRun, store: Store, part: int = PART) -> TrainedRun:
    session = full_sequence_session(run.session, store, part)
    return dataclasses.replace(run, session=session, in_windows=False)


def at_once(run: TrainedRun, store: Store, names: list[str], replica: int) -> Predictions:
    """Applies the model to whole videos, each as one window; returns ticks, not frames."""
    session = run.session
    entries = [store.index_of(name) for name in names]
    ticks = [session.window_spec.num_ticks(store.videos[i]) for i in entries]
    # A multiple of 6 ends with a row of every stream.
    size = -(-max(ticks) // 6) * 6
    spec = dataclasses.replace(session.window_spec, window=size, stride=size)
    batch = stack([LoadWindow(store, spec)((i, 0)) for i in entries])
    weights = jax.tree.map(lambda leaf: leaf[replica], run.best)
    fold = session.folds.members_R[replica]
    normalisation = jax.tree.map(lambda leaf: leaf[fold], run.normalisation)

    @jax.jit
    def apply(weights: Any) -> Any:
        state = weights["model_state"]
        arguments = session.model, weights["params"], state, batch, normalisation
        return forward(*arguments, train=False)[0]

    outputs = jax.device_get(apply(weights))
    return {
        name: {task: y_BTC[b, : ticks[b]] for task, y_BTC in outputs.items()}
        for b, name in enumerate(names)
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("long") / "small"
    lengths = (37, 64, 3 * PART, 20, 90, 71)
    return Store(build_small_store(path, lengths=lengths, validation_lengths=(17, 33)))


# -- as one sequence -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_parts_give_what_the_model_gives_of_the_whole_video(store: Store, model: str) -> None:
    run = run_of(session_of(store, model), store)
    whole = in_parts(run, store)
    assert whole.session.window_spec.stride == PART
    predictor, placed = whole.predictor(store), whole.placed()
    found, again = (predictor(*placed, [VIDEOS] * 2) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, found, again)  # no state is left over
    for replica in range(2):
        expected = at_once(run, store, VIDEOS, replica)
        for name in VIDEOS:
            index = store.index_of(name)
            values_NC = expected[name]["va"]
            pts_N = store.read(index).pts_N
            ticks_N = run.session.window_spec.frame_ticks(pts_N, len(values_NC))
            assert found[replica][name]["va"].shape == (len(pts_N), 2)
            assert np.ptp(values_NC) > 0.01
            np.testing.assert_allclose(
                found[replica][name]["va"], values_NC[ticks_N], atol=2e-6, err_msg=name
            )


@pytest.mark.slow
def test_windows_and_sequences_agree_where_a_window_holds_all_that_is_seen(store: Store) -> None:
    session = session_of(store, "lfan")
    model: Any = session.model
    session = dataclasses.replace(session, model=model.clone(causal=True))
    assert (model_extent(session.model).before, model_extent(session.model).after) == (12, 0)
    run = run_of(session, store)
    windows = run.predict(store, [VIDEOS] * 2)
    sequences = in_parts(run, store).predict(store, [VIDEOS] * 2)
    for name in VIDEOS:
        count = len(windows[0][name]["va"])
        frames = np.arange(count)
        # A window that begins less than 12 frames earlier does not show all, and counts too.
        starts = session.window_spec.starts(count)
        inside = np.array([all((s == 0) | (f < s) | (f >= s + 12) for s in starts) for f in frames])
        difference = np.abs(windows[1][name]["va"] - sequences[1][name]["va"]).max(axis=1)
        assert difference[inside].max() < 2e-6
        if not inside.all():
            assert difference[~inside].max() > 1e-3
    assert inside.all()  # the last video fits into its first window


def test_parts_are_as_long_as_memory_of_a_batch_and_the_videos_allow(store: Store) -> None:
    session = session_of(store, "lfan")  # 3 windows of 32, and 6 ticks seen on either side
    assert full_sequence_session(session, store).window_spec.window == 96
    wide = dataclasses.replace(session, config=with_batches_of(session.config, 12))
    spec = full_sequence_session(wide, store).window_spec
    assert (spec.stride, spec.window) == (90, 102)  # the longest video
    small = dataclasses.replace(session, config=with_batches_of(session.config, 1))
    model: Any = session.model
    deep = dataclasses.replace(
        small, model=model.clone(channels={"ir50": (4,) * 4, "vggish": (4,)})
    )
    spec = full_sequence_session(deep, store).window_spec
    assert (spec.stride, spec.window) == (60, 120)  # never more halo than part


# -- what models say of themselves ---------------------------------------------------------------


def bounded() -> dict[str, Session]:
    """Returns the shipped systems that allow it, one of each extent."""
    found: dict[str, Session] = {}
    seen = set()
    for variant in shipped():
        session = small_session(variant)
        session = dataclasses.replace(
            session, window_spec=dataclasses.replace(session.window_spec, window=60, stride=60)
        )
        try:
            extent = model_extent(session.model)
        except InputError:
            continue
        key = (type(session.model).__name__, extent)
        if key not in seen:
            seen.add(key)
            found[variant.title] = session
    return found


BOUNDED = bounded()


def test_the_systems_that_the_papers_make_possible_are_possible() -> None:
    assert {title.partition(":")[0] for title in BOUNDED} == set(MODELS)
    assert {"lfan", "lfan:simulated", "emma_net:current_face"} <= set(BOUNDED)


@pytest.mark.slow
@pytest.mark.parametrize("title", BOUNDED)
def test_extents_are_what_a_nan_reaches(title: str) -> None:
    session = BOUNDED[title]
    model: Any = session.model
    extent = model.extent()
    inputs = make_inputs(session, (60,))
    for name in inputs.streams:
        inputs.streams[name][:, 30 // session.window_spec.ticks_per_row[name]] = np.nan
    apply = jax.jit(lambda v, x: model.apply(v, x, inputs.masks, valid=inputs.valid, train=False))
    outputs, _ = apply(random_variables(session), inputs.streams)
    for y_BTC in outputs.values():
        reached = np.flatnonzero(np.isnan(np.asarray(y_BTC[0])).any(axis=-1))
        last = 59 if extent.carries else 30 + extent.before
        np.testing.assert_array_equal(reached, np.arange(30 - extent.after, last + 1))


REFUSED = {
    "rjcma": ("full_sequence", "lfan"),
    "exptrm": ("full_sequence", "recurrent_baselines"),
    "tcn_transformer": ("full_sequence", "multiscale_tcn"),
    "multiscale_tcn": ("config.data.streams", "one stream"),
    "recurrent_baselines:simulated": ("config.model.causal", "True"),
    "emma_net": ("config.model.fusion", "current_face"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_models_that_need_windows_are_refused(store: Store, title: str) -> None:
    (variant,) = (variant for variant in shipped() if variant.title == title)
    field, expected = REFUSED[title]
    with pytest.raises(InputError, match=field) as caught:
        full_sequence_session(small_session(variant), store)
    assert expected in str(caught.value)


def test_predictions_at_a_windows_end_are_not_made_from_what_comes_later(store: Store) -> None:
    session = session_of(store, "lfan", {"scored": "last"})
    with pytest.raises(InputError, match=r"config\.data\.scored"):
        full_sequence_session(session, store)
    model: Any = session.model
    causal = dataclasses.replace(session, model=model.clone(causal=True))
    spec = full_sequence_session(causal, store, 20).window_spec
    assert (spec.scored, spec.stride, spec.window) == ("last", 20, 32)


# -- in bounded memory ---------------------------------------------------------------------------

SHORT, LONG, WIDTH = 1_000, 20_000, 1_024
# A page that is touched brings others with it, a megabyte where files are cached in large parts.
AROUND = 1 << 23


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Returns a video, and one that is 20 times as long: 41 MB of rows."""
    path = tmp_path_factory.mktemp("long") / "store"
    streams = [StreamSpec("ir50", WIDTH, "visual")]
    rows_ND = np.random.default_rng(0).normal(size=(100, WIDTH)).astype(np.float16)
    videos = []
    with StoreWriter(path, name="long", streams=streams, tasks=("va",)) as writer:
        for name, count in {"train": 100, "short": SHORT, "long": LONG}.items():
            pts_N = np.arange(count) / 30
            stream = StreamRows(np.resize(rows_ND, (count, WIDTH)), pts_N, np.ones(count, bool))
            part = "train" if name == "train" else "test"
            labels = {"va": np.zeros((count, 2), np.float32)}
            writer.add(VideoRecord(name, name, part, pts_N, {"ir50": stream}, labels))
            videos.append((name, name, part))
        writer.finish(official_and_blocks(videos, k=1))
    return Store(path)


def mapped_bytes(store: Store) -> int:
    """Returns the bytes of the store's shards in this process's memory."""
    total = 0
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        if str(store.path) in block:
            total += 1024 * int(re.findall(r"^Rss: *(\d+)", block, re.MULTILINE)[0])
    return total


needs_smaps = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="memory maps are looked up in /proc"
)


@pytest.mark.nightly
@needs_smaps
def test_what_was_read_is_given_back(long_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_PART_BYTES", 1 << 18)
    store = Store(long_store.path)
    rows_ND = store.read(store.index_of("long")).streams["ir50"].rows_ND
    # The whole record was checked by now.
    assert mapped_bytes(store) < AROUND
    total = rows_ND[::2].sum(dtype=np.float64)
    assert mapped_bytes(store) > 0.9 * rows_ND.nbytes > 4 * AROUND
    store.release()
    assert mapped_bytes(store) == 0
    assert rows_ND[::2].sum(dtype=np.float64) == total


@pytest.mark.nightly
@needs_smaps
def test_memory_grows_by_less_than_the_predictions_take(
    long_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecord, "_PART_BYTES", 1 << 18)
    config = small_config(long_store.path)
    config["model"] = {"name": "lfan", "channels": {"ir50": [4]}, "kernel_size": 3}
    config["data"] |= {"streams": ["ir50"], "window": 100, "stride": 80, "random_offset": False}
    config["replicas"] = {"folds": ["0"], "targets": ["all"], "seeds": [0]}
    session = build_session(config, long_store.streams, jax.devices()[:1])
    run = run_of(session, long_store)
    peaks: dict[str, int] = {}
    mapped: list[int] = []
    for name in ("train", "short", "long"):  # the first one compiles
        store = Store(long_store.path)
        release = store.release

        def note(store: Store = store, release: Any = release) -> None:
            mapped.append(mapped_bytes(store) if len(mapped) % 8 == 0 else 0)
            release()

        monkeypatch.setattr(store, "release", note)
        tracemalloc.start()
        (((_, (predictions,)),)) = predict_groups(run, store, [name])
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.isfinite(predictions[name]["va"]).all()
        store.close()
    # Of each frame: two sums and a count, two means and their float64, two predictions. Beside
    # them, as many batches as the reader may be ahead of the model; the video's rows are 41 MB.
    assert peaks["long"] - peaks["short"] < (LONG - SHORT) * 80 + 16e6
    assert len(mapped) > 40
    assert max(mapped) < 2 * AROUND


def test_groups_of_videos_hold_so_many_ticks_and_all_videos(store: Store) -> None:
    spec = session_of(store, "lfan").window_spec
    names = ["train-0", "train-1", "train-2", "train-3", "train-4"]  # 37, 64, 72, 20, 90
    assert video_groups(store, names, spec, 110) == [names[:2], names[2:4], names[4:]]
    assert video_groups(store, names, spec, 1) == [[name] for name in names]
    assert video_groups(store, names, spec, 283) == [names]
    assert video_groups(store, [], spec, 110) == []


def test_groups_predict_what_all_together_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(session_of(store, "multiscale_tcn"), store)
    expected = run.predict(store, [VIDEOS] * 2)
    monkeypatch.setattr("emojax.prediction.long_videos._GROUP_TICKS", 91)
    found: list[Predictions] = [{}, {}]
    sizes = []
    for group, predictions in predict_groups(run, store, VIDEOS):
        sizes.append(len(group))
        for replica in range(2):
            found[replica] |= predictions[replica]
    assert sizes == [1, 2]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_checksum_in_parts_is_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).bytes(100)
    whole = tfrecord.masked_crc(data)
    monkeypatch.setattr(tfrecord, "_PART_BYTES", 33)
    calls: list[None] = []
    assert tfrecord.masked_crc(data, lambda: calls.append(None)) == whole
    assert len(calls) == 4
    crc = crc32c.crc32c(data)
    assert whole == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
