"""The shipped TCN-Transformers: the paper's tables as variants, its training, its sizes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from configs.tcn_transformer import ABLATIONS, STREAMS, VARIANTS, get_config
from emojax.errors import InputError
from emojax.models import build_model
from emojax.specs import STREAMS as SPECS
from emojax.specs import TASKS


def parameters(variant: str) -> dict[str, Any]:
    """Returns shapes of the parameters of a configuration's model, at the streams' own widths."""
    config = get_config(variant)
    fields = config.model.to_dict()
    names, window = config.data.streams, config.data.window
    tasks = {task: TASKS[task].outputs for task in config.data.tasks}
    model = build_model(fields.pop("name"), tasks, streams=names, window=window, **fields)
    widths = {n: SPECS[n].width if n in SPECS else 768 for n in names}
    streams = {n: jax.ShapeDtypeStruct((2, window, d), jnp.float32) for n, d in widths.items()}
    masks = dict.fromkeys(names, jax.ShapeDtypeStruct((2, window), jnp.bool_))
    return jax.eval_shape(
        functools.partial(model.init, train=True), jax.random.key(0), streams, masks
    )["params"]


def expected_size(streams: tuple[str, ...], heads: tuple[int, ...], width: int) -> int:
    """Returns parameters counted from the description of the public code."""
    total = joint = 0
    for name in streams:
        before = SPECS[name].width
        for after in (1024, 512, 256) if name == "eff" else (512, 256, 128):
            total += 5 * before * after + 5 * after * after + 4 * after  # norms and biases
            total += before * after + after + 3  # a 1x1 convolution, slopes
            # The first block of a stream of 512 keeps its width.
            total -= (before * after + after) * (before == after)
            before = after
        joint += before
    total += (joint + 1) * width
    joint = width or joint
    total += 8 * (4 * joint * joint + 2 * 512 * joint + 512 + 9 * joint)
    return total + sum(joint * 256 + 2 * 256 + 256 * c + c for c in heads)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "task", "heads", "width"),
    [
        ("", "va", (2,), 0),
        ("expr", "expr", (8,), 0),
        ("au", "au", (12,), 0),
        ("all", "va", (2, 8, 12), 0),
        ("upstream", "va", (1, 1), 512),
        ("upstream_au", "au", (12,), 512),
    ],
)
def test_sizes_of_the_shipped_models(
    variant: str, task: str, heads: tuple[int, ...], width: int
) -> None:
    params = parameters(variant)
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found == expected_size(STREAMS[task], heads, width)


def test_every_row_of_the_tables_is_a_variant_with_its_streams() -> None:
    assert [len(rows) for rows in ABLATIONS.values()] == [8, 10, 10]
    for task, rows in ABLATIONS.items():
        for streams in rows:
            config = get_config(f"{task}_{'+'.join(streams)}")
            assert tuple(config.data.streams) == streams
            assert tuple(config.data.tasks) == (task,)
            assert set(config.model.channels) == {*streams, "default"}
            assert set(config.data.resampling) == set(streams)
        assert ABLATIONS[task].get(STREAMS[task]) in (None, max(rows.values()))
    parameters("expr_arcface")  # one stream, 128 wide
    with pytest.raises(InputError, match="Unknown variant") as caught:
        get_config("va_arcfac")
    assert "did you mean va_arcface?" in str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_papers_training_is_kept_but_for_what_is_ours(variant: str) -> None:
    config = get_config(variant)
    train, data = config.train, config.data
    assert (train.optimizer, train.decay, train.warmup) == ("adamw", "cosine", "linear")
    if variant in ("meld", "demo") or variant.startswith("simulated"):
        return
    assert (train.learning_rate, train.weight_decay) == (3e-5, 1e-5)
    assert train.warmup_epochs == 1 + variant.startswith("upstream")
    assert (data.window, data.stride, data.batch_size, data.fill) == (300, 200, 32, "nearest")
    assert config.model.dropout == 0.3
    assert len(config.replicas.folds) == (5 if variant.startswith("folds") else 1)
