"""State dicts of the public layouts, imported, against the PyTorch modules they come from."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from emojax.core.session import build_session
from emojax.core.state import init_variables
from emojax.datasets.source import Store
from emojax.errors import InputError
from emojax.exchange.torch_weights import import_torch
from emojax.prediction.trained_run import open_run
from emojax.specs import StreamSpec
from emojax.studies.system_facts import quick_compiling as quick_options
from tests.small_store import build_small_store, small_config
from tests.training_runs import (
    one_device,
    quick_compiling,  # noqa: F401 - a fixture
    subprocess_environment,
)

torch = pytest.importorskip("torch", reason="needs PyTorch (extra: parity)")
layouts = pytest.importorskip("tests.torch_layouts")

WINDOW = 12
STREAMS = {
    "ir50": StreamSpec("ir50", 7, "visual"),
    "vggish": StreamSpec("vggish", 5, "audio"),
    "bert": StreamSpec("bert", 6, "text"),
    "eff": StreamSpec("eff", 9, "visual"),
    "affectnet8": StreamSpec("affectnet8", 5, "visual"),
    "raf_db": StreamSpec("raf_db", 6, "visual"),
    "wav2vec2_emotion": StreamSpec("wav2vec2_emotion", 7, "audio"),
}
PUBLIC = {
    "ir50": "video", "vggish": "logmel", "bert": "bert", "eff": "emotion",
    "affectnet8": "affecnet8", "raf_db": "rafdb", "wav2vec2_emotion": "wav_emotion",
}  # fmt: skip
CHANNELS = {
    "ir50": (8, 6), "vggish": (4, 4), "bert": (8, 5), "eff": (10, 8, 6), "affectnet8": (5, 4, 4),
    "raf_db": (6, 6, 4), "wav2vec2_emotion": (6, 5, 3),
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "rjcma": {"variant": "upstream", "recursions": 2, "head_width": 9, "kernel_size": 3},
    "lfan": {"modal_width": 6, "attention_heads": 2, "kernel_size": 3},
    "tcn_transformer": {
        "variant": "upstream", "width": 8, "layers": 2, "attention_heads": 4, "feed_forward": 8,
        "head_width": 9, "kernel_size": 3,
    },
}  # fmt: skip


def config(layout: str, streams: tuple[str, ...], **model: Any) -> dict[str, Any]:
    changed = small_config(Path())
    changed["data"] |= {"store": "", "streams": list(streams), "window": WINDOW, "stride": 9}
    fields = {"name": layout, "channels": {name: CHANNELS[name] for name in streams}}
    changed["model"] = fields | MODELS[layout] | model
    changed["replicas"]["targets"] = ["valence"]
    return changed


def public_model(
    layout: str, streams: tuple[str, ...], *, seed: int = 0, old: bool = True, classes: int = 0
) -> Any:
    names = {PUBLIC[name]: name for name in streams}
    widths = {modal: STREAMS[name].width for modal, name in names.items()}
    channels = {modal: CHANNELS[name] for modal, name in names.items()}
    options: dict[str, Any] = {"kernel": 3, "old": old}
    if layout == "rjcma":
        model = layouts.PublicRJCMA(
            widths, channels, window=WINDOW, recursions=2, hidden=9, **options
        )
    elif layout == "lfan":
        model = layouts.PublicLFAN(widths, channels, modal=6, heads=2, **options)
    else:
        options |= {"width": 8, "heads": 4, "layers": 2, "hidden": 9, "classes": classes}
        model = layouts.PublicTCNTransformer(widths, channels, **options)
    return layouts.randomise(model, seed)


def outputs_of(
    run: Any, streams: dict[str, np.ndarray], r: int = 0, task: str = "va"
) -> np.ndarray:
    variables = jax.tree.map(lambda leaf: leaf[r], run.best)
    masks = {name: np.ones(x.shape[:2], bool) for name, x in streams.items()}
    predict = functools.partial(run.session.model.apply, train=False)
    apply = jax.jit(predict, compiler_options=quick_options())
    outputs, _ = apply({"params": variables["params"], **variables["model_state"]}, streams, masks)
    return np.asarray(outputs[task])


CASES = {
    "rjcma_old_names": ("rjcma", ("ir50", "vggish", "bert"), {"old": True}, {}),
    "rjcma_new_names": ("rjcma", ("ir50", "vggish", "bert"), {"old": False}, {"heads": "joint"}),
    "lfan": ("lfan", ("ir50", "bert", "vggish"), {"old": True}, {}),
    "lfan_two_streams": ("lfan", ("ir50", "vggish"), {"old": False}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_imported_model_predicts_what_the_pytorch_model_does(case: str, tmp_path: Path) -> None:
    layout, streams, how, fields = CASES[case]
    model = public_model(layout, streams, **how)
    state = layouts.arrays(model)
    if case == "lfan":
        np.savez(tmp_path / "state.npz", **state)
        file = tmp_path / "state.npz"
    else:
        prefix = "module." if case == "lfan_two_streams" else ""
        file = tmp_path / "state.safetensors"
        save_file({prefix + name: array for name, array in state.items()}, file)
    session = build_session(config(layout, streams, **fields), STREAMS, one_device())
    run, (replica,) = import_torch(
        session, layout, {"": file}, tmp_path / "run", statistics="identity"
    )

    rng = np.random.default_rng(3)
    rows = {name: rng.normal(size=(2, WINDOW, STREAMS[name].width)) for name in streams}
    rows = {name: x.astype(np.float32) for name, x in rows.items()}
    with torch.no_grad():
        # In the order of the model's modalities, which is that of the streams.
        given = {PUBLIC[name]: torch.tensor(x) for name, x in rows.items()}
        expected = model(given).numpy()[..., 0]
    found = outputs_of(run, rows)
    assert np.abs(expected).max() > 0.05
    assert expected.std(axis=1).min() > 1e-3
    np.testing.assert_allclose(found[..., 0], expected, rtol=0, atol=2e-6)
    # The statistics on record are what the weights need: none.
    mean, std = run.normalisation["ir50"]
    np.testing.assert_array_equal([np.ptp(mean), mean[0], np.ptp(std), std[0]], [0, 0, 0, 1])

    # Everything that the public model uses was taken, and what was not is accounted for.
    reasons = dict(replica.weights.unused)
    assert len(replica.weights.taken) + len(reasons) == len(state)
    assert not [name for name, why in reasons.items() if why == "not known"], reasons
    counted = {name.removeprefix("module.").split(".")[0] for name in reasons}
    assert counted <= {"spatial", "temporal", "bn", "bn1", "coattn"}
    left_open = {path.split("/")[1] for path in replica.weights.missing}
    per_target = layout == "rjcma" and not fields
    assert left_open == ({"head_va_arousal"} if per_target else set())
    if per_target:
        # What the file leaves open is as in a fresh model.
        init = functools.partial(
            init_variables, session.model, session.streams, session.window_spec.lengths
        )
        params, _ = jax.jit(init, compiler_options=quick_options())(
            jax.random.fold_in(jax.random.key(0), 0)
        )
        head = jax.tree.map(lambda leaf: leaf[0], run.best["params"]["head_va_arousal"])
        chex.assert_trees_all_equal(head, params["head_va_arousal"])


TCN_STREAMS = ("eff", "affectnet8", "raf_db", "wav2vec2_emotion")
# Case -> task, streams, columns of the public model's only head, names of weight normalisation.
WHOLE_TASKS = {
    "va": ("va", TCN_STREAMS, 0, True),
    "expr": ("expr", TCN_STREAMS[:2], 8, False),
    "au": ("au", TCN_STREAMS[:3], 12, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WHOLE_TASKS)
def test_an_imported_tcn_transformer_predicts_what_the_pytorch_model_does(
    case: str, tmp_path: Path
) -> None:
    task, streams, classes, old = WHOLE_TASKS[case]
    model = public_model("tcn_transformer", streams, old=old, classes=classes)
    state = layouts.arrays(model)
    save_file({f"module.{n}": a for n, a in state.items()}, tmp_path / "s.safetensors")
    changed = config("tcn_transformer", streams)
    changed["data"]["tasks"] = [task]
    changed["loss"], changed["evaluation"] = {}, {"selection": {}}
    changed["replicas"]["targets"] = [task]
    session = build_session(changed, STREAMS, one_device())
    run, (replica,) = import_torch(
        session,
        "tcn_transformer",
        {"": tmp_path / "s.safetensors"},
        tmp_path / "run",
        statistics="identity",
    )
    rng = np.random.default_rng(3)
    rows = {name: rng.normal(size=(2, WINDOW, STREAMS[name].width)) for name in streams}
    rows = {name: x.astype(np.float32) for name, x in rows.items()}
    with torch.no_grad():
        expected = model({PUBLIC[name]: torch.tensor(x) for name, x in rows.items()}).numpy()
    found = outputs_of(run, rows, task=task)
    assert expected.shape == found.shape == (2, WINDOW, classes or 2)
    assert expected.std(axis=1).min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
    assert not replica.weights.missing
    assert set(replica.weights.unused.values()) == {"a counter"}
    assert len(replica.weights.taken) + len(replica.weights.unused) == len(state)


def test_a_tcn_transformer_of_several_tasks_or_joint_heads_is_refused(tmp_path: Path) -> None:
    streams = ("eff", "affectnet8")
    state = layouts.arrays(public_model("tcn_transformer", streams))
    save_file(state, tmp_path / "s.safetensors")
    files = {"": tmp_path / "s.safetensors"}
    changed = config("tcn_transformer", streams)
    changed["data"]["tasks"], changed["replicas"]["targets"] = ["va", "expr"], ["all"]
    session = build_session(changed, STREAMS, one_device())
    with pytest.raises(InputError) as caught:
        import_torch(session, "tcn_transformer", files, tmp_path / "a", statistics="identity")
    assert caught.value.details["field"] == "config.data.tasks"
    changed = config("tcn_transformer", streams, heads="joint")
    session = build_session(changed, STREAMS, one_device())
    with pytest.raises(InputError) as caught:
        import_torch(session, "tcn_transformer", files, tmp_path / "b", statistics="identity")
    assert caught.value.details["field"].startswith(("vhead", "ahead"))
    # That code normalises every column on its own, so a store is needed.
    session = build_session(config("tcn_transformer", streams), STREAMS, one_device())
    with pytest.raises(InputError) as caught:
        import_torch(session, "tcn_transformer", files, tmp_path / "c")
    assert caught.value.details["field"] == "--config.data.store"


@pytest.mark.slow
def test_each_replica_takes_the_state_dict_of_its_target(tmp_path: Path) -> None:
    streams = ("ir50", "vggish")
    files = {}
    rng = np.random.default_rng(4)
    rows = {name: rng.normal(size=(1, WINDOW, STREAMS[name].width)) for name in streams}
    rows = {name: x.astype(np.float32) for name, x in rows.items()}
    given = {PUBLIC[name]: torch.tensor(x) for name, x in rows.items()}
    expected = {}
    for seed, target in enumerate(("valence", "arousal")):
        model = public_model("lfan", streams, seed=seed)
        files[target] = tmp_path / f"{target}.safetensors"
        save_file(layouts.arrays(model), files[target])
        with torch.no_grad():
            expected[target] = model(given).numpy()[..., 0]
    changed = config("lfan", streams)
    changed["replicas"]["targets"] = ["arousal", "valence"]
    session = build_session(changed, STREAMS, one_device())
    run, _ = import_torch(session, "lfan", files, tmp_path / "run", statistics="identity")
    for r, (target, column) in enumerate((("arousal", 1), ("valence", 0))):
        found = outputs_of(run, rows, r)[..., column]
        np.testing.assert_allclose(found, expected[target], rtol=0, atol=2e-6)
    with pytest.raises(InputError, match="arousal") as caught:
        import_torch(session, "lfan", {"": files["valence"]}, tmp_path / "other")
    assert "valence=FILE" in caught.value.details["expected"]


def test_statistics_are_those_of_the_public_code(tmp_path: Path) -> None:
    """One mean and deviation of all of a stream's numbers, none for what passed a backbone."""
    store = Store(build_small_store(tmp_path / "store"))
    changed = config("lfan", ("ir50", "vggish"))
    session = build_session(changed, store.streams, one_device())
    widths = {"video": 8, "vggish": 6}
    channels = {"video": CHANNELS["ir50"], "vggish": CHANNELS["vggish"]}
    model = layouts.PublicLFAN(widths, channels, kernel=3, modal=6, heads=2, old=True)
    save_file(layouts.arrays(layouts.randomise(model, 1)), tmp_path / "state.safetensors")
    run, _ = import_torch(
        session, "lfan", {"": tmp_path / "state.safetensors"}, tmp_path / "run", store=store
    )
    rows = [store.read(store.index_of(name)).streams["vggish"] for name in store.fold("0").train]
    numbers = np.concatenate([r.rows_ND[r.valid_N] for r in rows]).astype(np.float64)
    mean, std = run.normalisation["vggish"]
    np.testing.assert_allclose(mean, np.full(6, numbers.mean()), rtol=1e-5)
    np.testing.assert_allclose(std, np.full(6, numbers.std()), rtol=1e-5)
    np.testing.assert_array_equal(run.normalisation["ir50"][1], np.ones(8))
    # Such a run is evaluated on the store's folds, with its baseline.
    assert run.trained_on(store)
    with pytest.raises(InputError, match="training videos"):
        import_torch(
            session, "lfan", {"": tmp_path / "state.safetensors"}, tmp_path / "x",
            statistics="store",
        )  # fmt: skip


@pytest.mark.slow
def test_the_command_imports_and_reports(tmp_path: Path) -> None:
    streams = ("ir50", "vggish")
    state = layouts.arrays(public_model("lfan", streams))
    save_file(state, tmp_path / "state.safetensors")
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({config('lfan', streams)!r})\n"
    )
    wide = ("ir50", 512), ("vggish", 128)
    # The command knows streams by the widths of the papers; these are other ones.
    arguments = [
        "import_torch", "--layout=lfan", f"--config={tmp_path / 'config.py'}",
        f"--weights=valence={tmp_path / 'state.safetensors'}", f"--out={tmp_path / 'run'}",
        "--statistics=identity",
    ]  # fmt: skip
    done = call(*arguments)
    assert done.returncode == 2, done.stderr
    assert "conv1.weight_v" in done.stderr
    assert "Traceback" not in done.stderr
    for (name, width), modal in zip(wide, ("video", "logmel"), strict=True):
        path = f"temporal.{modal}.network.0"
        conv, residual = f"{path}.conv1.weight_v", f"{path}.downsample.weight"
        rng = np.random.default_rng(1)
        for tensor in (conv, f"{path}.net.0.weight_v", residual):
            shape = (CHANNELS[name][0], width, *state[tensor].shape[2:])
            state[tensor] = rng.normal(size=shape).astype(np.float32)
        state[f"{path}.net.0.weight_v"] = state[conv]
    save_file(state, tmp_path / "state.safetensors")
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert "not used: a backbone" in done.stdout
    assert "0 missing" in done.stdout
    assert open_run(tmp_path / "run").session.names == ("valence",)


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emojax.weights", *arguments],
        env=subprocess_environment(),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=180,
    )


def damage(state: dict[str, np.ndarray], fault: str) -> tuple[str, dict[str, np.ndarray]]:
    """Layout and state dict with a fault."""
    conv = "temporal.video.network.0.conv1"
    changes: dict[str, Any] = {
        "shape": {"regressor.weight": np.zeros((1, 9), np.float32)},
        "rank": {f"{conv}.weight_v": np.zeros((8, 7), np.float32)},
        "not_finite": {"bn.video.weight": np.full(6, np.nan, np.float32)},
        "text": {"bn.video.weight": np.array(["a"] * 6)},
        "twins": {"temporal.video.network.0.net.0.bias": np.ones(8, np.float32)},
        "more_layers": {"temporal.video.network.2.conv1.bias": np.ones(8, np.float32)},
    }
    missing = {"missing": "fusion.layers.norm1.bias", "modality": "temporal.video."}
    if fault in missing:
        return "lfan", {n: a for n, a in state.items() if not n.startswith(missing[fault])}
    return "rjcma" if fault == "layout" else "lfan", state | changes.get(fault, {})


FAULTS = {
    "shape": ("regressor.weight", "(1, 9)", "(18, 2)"),
    "rank": ("conv1.weight_v", "(8, 7)", "(3, 7, 8)"),
    "not_finite": ("bn.video.weight", "6 numbers that are not finite"),
    "twins": ("net.0.bias", "conv1.bias"),
    "more_layers": ("network.2.conv1.bias", "layers, recursions and streams"),
    "missing": ("lacks 1 of", "attention/norm/bias", "layouts"),
    "modality": ("stream 'ir50'", "video or cnn", "--modalities"),
    "layout": ("model lfan", "configs/rjcma.py"),
    "text": ("bn.video.weight", "state.npz"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_state_dicts_that_do_not_fit_are_refused(fault: str, tmp_path: Path) -> None:
    streams = ("ir50", "vggish")
    layout, state = damage(layouts.arrays(public_model("lfan", streams)), fault)
    np.savez(tmp_path / "state.npz", **state)
    session = build_session(config("lfan", streams), STREAMS, one_device())
    with pytest.raises(InputError) as caught:
        import_torch(
            session, layout, {"": tmp_path / "state.npz"}, tmp_path / "run", statistics="identity"
        )
    for words in FAULTS[fault]:
        assert words in str(caught.value)
    assert not (tmp_path / "run").exists()
