"""What configurations share: other tasks and some of the streams of a system."""

from ml_collections import ConfigDict

from emojax.configuration import base_config, other_tasks, some_streams


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
