"""Tests the schema of the configuration, and the shared parts of configuration files."""

import dataclasses
import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_origin

import pytest
from ml_collections import ConfigDict

from emojax.config_reading import all_keys, as_plain, read
from emojax.config_schema import RunConfig, Stage
from emojax.configuration import base_config, key_table, other_tasks, some_streams
from emojax.core.class_weights import CLASS_WEIGHTS
from emojax.core.config_checks import read_config
from emojax.core.optimizer import OPTIMIZERS
from emojax.core.schedule import DECAYS, WARMUPS
from emojax.datasets.transforms import RESAMPLERS
from emojax.errors import InputError

KEYS = {name: (kind, rule) for name, kind, _, rule in all_keys()}


def a_config() -> ConfigDict:
    config = base_config()
    config.data.streams = ("ir50", "vggish", "bert")
    config.data.resampling = ConfigDict({"ir50": "nearest", "bert": "nearest"})
    config.data.context.vggish = 3
    config.model.channels = ConfigDict({"ir50": (4,), "vggish": (5,), "bert": (6,)})
    config.model.kernel_size = 5
    config.loss.va = "ccc_window"
    config.evaluation.selection.va = "rmse"
    config.replicas.targets = ("valence", "arousal")
    return config


def test_other_tasks_keep_what_is_known_of_them_and_nothing_else() -> None:
    config = other_tasks(a_config(), "va", "expr")
    assert config.data.tasks == ("va", "expr")
    assert config.loss.to_dict() == {"va": "ccc_window"}
    assert config.evaluation.selection.to_dict() == {"va": "rmse"}
    assert config.replicas.targets == ("all",)

    config = other_tasks(a_config(), "au")
    assert config.data.tasks == ("au",)
    assert config.loss.to_dict() == config.evaluation.selection.to_dict() == {}
    assert config.replicas.targets == ("all",)


def test_some_streams_leave_no_trace_of_the_others() -> None:
    config = some_streams(a_config(), "bert", "ir50")
    assert config.data.streams == ("bert", "ir50")
    assert config.data.resampling.to_dict() == {"ir50": "nearest", "bert": "nearest"}
    assert config.data.context.to_dict() == {}
    assert config.model.channels.to_dict() == {"ir50": (4,), "bert": (6,)}
    assert config.model.kernel_size == 5
    assert set(config.data) == set(a_config().data)


# -- the schema --------------------------------------------------------------------------------


def changed(name: str, value: Any) -> dict[str, Any]:
    """Returns all defaults, with one value in place of a key's own."""
    config = as_plain(RunConfig())
    *sections, last = name.split(".")
    inner = config
    for section in sections:
        inner = inner[section]
    inner[last] = value
    return config


def test_the_base_has_every_key_and_all_of_it_is_allowed() -> None:
    assert as_plain(base_config()) == as_plain(RunConfig())
    assert read(RunConfig, as_plain(base_config())) == RunConfig()


# Names are text whatever they were; streams, tasks, folds and targets are checked later.
@pytest.mark.parametrize("name", sorted(name for name, (_, rule) in KEYS.items() if not rule.names))
def test_a_value_of_another_type_is_refused_by_its_key(name: str) -> None:
    wrong = "text" if get_origin(KEYS[name][0]) is dict else {"a": "b"}
    with pytest.raises(InputError) as caught:
        read(RunConfig, changed(name, wrong))
    assert caught.value.details["field"] == f"config.{name}"


@pytest.mark.parametrize("name", sorted(name for name, (_, rule) in KEYS.items() if rule.required))
def test_a_required_key_may_not_be_left_out(name: str) -> None:
    config = as_plain(RunConfig())
    section, _, key = name.partition(".")
    del (config[section] if key else config)[key or section]
    with pytest.raises(InputError) as caught:
        read(RunConfig, config)
    assert caught.value.details["field"] == f"config.{name}"


def test_a_key_that_may_be_left_out_takes_its_default() -> None:
    def required(section: Any) -> dict[str, Any]:
        found = {}
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if field.metadata["rule"].required:
                found[field.name] = (
                    required(value) if dataclasses.is_dataclass(value) else as_plain(value)
                )
        return found

    config = required(RunConfig())
    assert "mesh" not in config
    assert read(RunConfig, config) == RunConfig()


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("data.batch_size", 0, 1),
        ("data.context", {"a": -1}, {"a": 0}),
        ("train.plateau_factor", 0.0, 1e-9),
        ("train.ema", 1.0, 0.999),
        ("train.ema", float("nan"), 0.0),
        ("train.clip_norm", float("inf"), 1),
        ("train.reload_best", 1, True),
        ("train.epochs", True, 1),
        ("train.epochs", 2.0, 2),
        ("replicas.seeds", [0, -1], [0, 1]),
        ("replicas.seeds", 2**32, 2**32 - 1),
        ("train.weight_decay", [0.0, -1e-3], [0.0, 1e-3]),
    ],
)
def test_bounds_are_held(name: str, value: Any, good: Any) -> None:
    read(RunConfig, changed(name, good))
    with pytest.raises(InputError) as caught:
        read(RunConfig, changed(name, value))
    assert caught.value.details["field"].startswith(f"config.{name}")


@pytest.mark.parametrize(
    ("name", "nearest"), [("trian", "train"), ("data.windwo", "window"), ("train.epoch", "epochs")]
)
def test_an_unknown_key_is_refused(name: str, nearest: str) -> None:
    with pytest.raises(InputError) as caught:
        read(RunConfig, changed(name, 3))
    assert caught.value.details["field"] == f"config.{name}"
    assert nearest in caught.value.details["remedy"]


@pytest.mark.parametrize("key", ["loss", "evaluation.selection"])
def test_an_unknown_task_is_refused_wherever_it_is_named(key: str) -> None:
    config = changed(key, {"vaa": "ccc"})
    config["model"]["name"] = "rjcma"
    with pytest.raises(InputError) as caught:
        read_config(config)
    assert caught.value.details["field"] == f"config.{key}"


def test_names_of_a_flag_are_split_at_commas() -> None:
    config = read(RunConfig, changed("data.streams", ["ir50, bert"]))
    assert config.data.streams == ("ir50", "bert")
    assert read(RunConfig, changed("replicas.folds", 3)).replicas.folds == ("3",)


def test_a_configuration_comes_back_from_its_plain_form() -> None:
    config = changed("train.stages", [{"objective": "branches", "frozen": "encoder_*"}, {}])
    config["train"]["learning_rate"] = [1e-3, 1e-4]
    found = read(RunConfig, config)
    assert found.train.stages == (Stage("branches", 0, ("encoder_*",)), Stage())
    assert found.train.learning_rate == (1e-3, 1e-4)
    assert read(RunConfig, as_plain(found)) == found


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("data.resampling", RESAMPLERS),
        ("train.warmup", WARMUPS),
        ("train.decay", DECAYS),
        ("train.class_weights", CLASS_WEIGHTS),
        ("train.optimizer", OPTIMIZERS),
    ],
)
def test_what_may_be_chosen_is_what_there_is(name: str, table: Collection[str]) -> None:
    assert set(KEYS[name][1].choices) == set(table)


def test_the_table_of_all_keys_is_up_to_date() -> None:
    file = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
    assert file.read_text(encoding="utf-8") == key_table(), "see its first lines for the command"


@pytest.mark.parametrize("override", [(), ("--config.data.store=stores/demo",)])
@pytest.mark.parametrize("module", ["train", "crossval"])
def test_a_wrong_path_is_told_with_and_without_an_override(
    module: str, override: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(f"emojax.{module}").COMMAND
    with pytest.raises(SystemExit) as done:
        command.run([module, "--config=configs/nope.py", "--workdir=run", *override])
    assert done.value.code == 2
    error = capsys.readouterr().err
    assert "configs/nope.py" in error
    assert "field:    --config\n" in error
    assert "Traceback" not in error
