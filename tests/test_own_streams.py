"""Tests stores whose streams no configuration knows: flags alone make every system read them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

import emojax
import emojax.train
from emojax.commands.command_flags import parse_flags, read_config
from emojax.config_reading import as_plain
from emojax.core.session import Session, build_session
from emojax.core.stream_defaults import complete_streams
from emojax.errors import InputError
from emojax.specs import StreamSpec

# ml_collections executes configurations by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

STREAMS = {"clip_vit": 6, "hubert": 5, "my_pose": 3}
SYSTEMS = (
    "rjcma:joint",
    "lfan",
    "exptrm:simulated",
    "emma_net:simulated",
    "multiscale_tcn:end_to_end",
    "tcn_transformer:simulated",
    "segment_mlp",
)
# Few frames and steps, whatever the system.
SHORT = {
    "data.window": "12",
    "data.stride": "12",
    "data.evaluation_stride": "12",
    "data.batch_size": "2",
    "train.epochs": "1",
    "train.epoch_steps": "2",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    videos = []
    for name, partition in (("a", "train"), ("b", "train"), ("c", "validation")):
        rows = {stream: rng.normal(size=(120, width)) for stream, width in STREAMS.items()}
        labels = np.tanh(rows["clip_vit"][:, :2])
        videos.append(emojax.Video(rows, name, partition, fps=30, labels={"va": labels}))
    path = tmp_path_factory.mktemp("own") / "store"
    emojax.write_store(path, videos)
    return path


def parsed(patch: pytest.MonkeyPatch, system: str, **changes: str) -> ConfigDict:
    """Returns the configuration of a call of ``emojax train`` with these overrides."""
    words = {"data.streams": ",".join(STREAMS), "data.tasks": "va", **changes}
    argv = ["emojax.train", f"--config={system}", "--workdir=run"]
    argv += [f"--config.{key}={value}" for key, value in words.items()]
    patch.setattr(sys, "argv", argv)
    given = flags.FlagValues()
    parse_flags(given, emojax.train.COMMAND.define_flags, argv, "emojax.train")
    return read_config(given)


def built(config: ConfigDict) -> Session:
    specs = {name: StreamSpec(name, width, "features") for name, width in STREAMS.items()}
    return build_session(as_plain(config), specs)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_reads_streams_of_any_name(
    monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    session = built(parsed(monkeypatch, system))
    assert tuple(session.model.streams) == tuple(STREAMS)
    assert session.abstract_state().params  # traces the model on these streams
    model = session.config.model
    for field in {"leader", "anchor"} & set(model):
        assert model[field] == "clip_vit"
    assert "default" not in model.get("channels", {})


@pytest.mark.slow
@pytest.mark.parametrize("system", [SYSTEMS[0], SYSTEMS[3], SYSTEMS[5]])
def test_systems_train_on_them(monkeypatch: pytest.MonkeyPatch, store: Path, system: str) -> None:
    run = emojax.fit(parsed(monkeypatch, system, **SHORT), emojax.open_store(store))
    assert run.streams == STREAMS
    assert np.isfinite(run.evaluate(partition="validation")["value"]).any()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("data.resampling", "mean", "mean"),
        ("data.normalisation", "none", "none"),
        ("data.rates", "15", 15.0),
        ("data.context", "3", 3),
        ("model.channels", "(8, 16)", (8, 16)),
    ],
)
def test_a_flag_sets_what_holds_for_one_stream(
    monkeypatch: pytest.MonkeyPatch, key: str, text: str, value: Any
) -> None:
    config = parsed(monkeypatch, "rjcma:joint", **{f"{key}.hubert": text})
    section, field = key.split(".")
    assert config[section][field]["hubert"] == value
    assert "my_pose" not in config[section][field]


def test_a_flag_sets_the_widths_of_all_streams_without_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"model.channels.default": "(4, 4)", "model.channels.hubert": "(2, 2, 2)"}
    channels = built(parsed(monkeypatch, "rjcma:joint", **changes)).model.channels
    assert {name: tuple(channels[name]) for name in STREAMS} == {
        "clip_vit": (4, 4), "hubert": (2, 2, 2), "my_pose": (4, 4)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("system", "changes", "field"),
    [
        ("lfan", {"model.leader": "clip"}, "model.leader"),
        ("emma_net:simulated", {"model.anchor": "clip"}, "model.anchor"),
        ("rjcma:joint", {"model.channels.clip_vit": "(0,)"}, "model.channels.clip_vit"),
        ("rjcma:joint", {"model.channels.clip": "(8,)"}, "--config.model.channels.clip"),
        ("rjcma:joint", {"model.widths.hubert": "(8,)"}, "--config.model.widths.hubert"),
        ("exptrm", {"model.anything.hubert": "8"}, "--config.model.anything.hubert"),
        ("rjcma:joint", {"data.resampling.hubert": "best"}, "config.data.resampling.hubert"),
    ],
)
def test_wrong_streams_and_values_are_refused(
    monkeypatch: pytest.MonkeyPatch, system: str, changes: dict[str, str], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        built(parsed(monkeypatch, system, **changes)).abstract_state()
    assert f"{field}\n" in str(caught.value) + "\n"


def test_completing_leaves_what_is_given() -> None:
    model = {"leader": "b", "channels": {"a": (1,)}, "width": 3}
    assert complete_streams(model, ("a", "b")) == model
    assert complete_streams({"leader": ""}, ()) == {"leader": ""}
