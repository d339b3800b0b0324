"""Measures layers beside the machine's matmul rate, and kernels beside each other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.context import Context
from benchmarks.machine import allow_tf32, backend
from benchmarks.parts.systems import milliseconds, on_gpu
from benchmarks.results import Column, Missing, Part, Table
from benchmarks.timing import Contender, Timing, interleaved, ratio, told
from emojax.layers.attention import attention_weights
from emojax.layers.convolution import CONVOLUTIONS, Convolution
from emojax.layers.dropout import Dropout
from emojax.layers.multi_kernel import WAYS, MultiKernelTCN
from emojax.layers.tcn import TemporalConvNet
from emojax.layers.transformer import TransformerEncoder
from emojax.studies.flops import count_flops


def kernels_part(context: Context) -> Part:
    """Measures the layers' shares of the matmul rate, and kernels beside each other."""
    # Matrix units are measured in their own precision.
    dtype = "bfloat16" if on_gpu() else context.dtype
    shares = Table(
        f"Forward and backward of layers beside the matmul rate, {dtype}, {context.sizes}",
        (
            Column("layer", "layer"),
            Column("replicas", "R"),
            Column("gflop", "GFLOP"),
            Column("step", "time, ms"),
            Column("reached", "GFLOP/s"),
            Column("share", "share of the matmul rate"),
        ),
        notes=["TCN: RJCMA's encoder of ir50; transformer: ExpTrm's encoder; dropout on."],
    )
    rate = context.rate(dtype)
    rate_text = rate.reason if isinstance(rate, Missing) else f"{rate / 1e9:,.0f} GFLOP/s"
    shares.notes.append(f"Matmul rate measured in this run, {dtype}: {rate_text}.")
    choices = Table(
        f"Kernels, forward and backward, on {backend()}, {dtype}",
        (
            Column("kernel", "kernel"),
            Column("way", "way"),
            Column("replicas", "R"),
            Column("step", "time, ms"),
            Column("to_first", "over the first way"),
        ),
        notes=["Convolution: causal, 5 taps, dilation 2. Dropout: rate 0.1."],
    )
    part = Part("kernels", [shares, choices])
    allow_tf32(context.torch_or_none, True)
    counts = (1, 2) if context.quick else (1, 12) if on_gpu() else (1, 2)
    for count in counts:
        _add_shares(context, dtype, count, shares, rate)
        _add_choices(context, dtype, count, choices)
        gc.collect()
    return part


def _seconds(context: Context) -> float:
    return 1.0 if context.quick else 3.0 if on_gpu() else 8.0


# ---- Shares of the matmul rate ---------------------------------------------------------------


def _add_shares(
    context: Context, dtype: str, count: int, table: Table, rate: float | Missing
) -> None:
    for name, (layer, shape) in _layers(context, dtype).items():
        late = context.out_of_time
        if late is not None:
            table.add(layer=name, replicas=count, step=late)
            continue
        context.say(f"kernels: {name}, R = {count}")
        try:
            function, arguments = _gradient_of(layer, (count, *shape), dtype)
            flops = count_flops(function, *arguments)
            timing = interleaved(
                [_repeated("layer", function, arguments)], seconds=_seconds(context)
            )["layer"]
        except Exception as error:
            table.add(layer=name, replicas=count, step=Missing(told(error)))
            continue
        median = timing.median
        failed = Missing(timing.failure)
        reached: float | Missing = failed if median is None else flops / median
        share: float | Missing
        if isinstance(reached, Missing) or isinstance(rate, Missing):
            share = reached if isinstance(reached, Missing) else rate
        else:
            share = reached / rate
        table.add(
            layer=name,
            replicas=count,
            gflop=flops / 1e9,
            step=milliseconds(timing),
            reached=reached if isinstance(reached, Missing) else reached / 1e9,
            share=share,
        )


def _layers(context: Context, dtype: str) -> dict[str, tuple[nn.Module, tuple[int, int, int]]]:
    """Returns name -> layer and the shape of its input, (B, T, D)."""
    options: dict[str, Any] = {"dtype": jnp.dtype(dtype)}
    if context.quick:
        return {
            "TCN": (TemporalConvNet((64, 32), **options), (2, 60, 64)),
            "transformer": (TransformerEncoder(1, 4, 128, **options), (4, 30, 64)),
        }
    return {
        "TCN": (TemporalConvNet((512, 512, 256, 256), **options), (12, 300, 512)),
        "transformer": (TransformerEncoder(2, 8, 2048, **options), (32, 100, 512)),
    }


def _gradient_of(
    layer: nn.Module, shape: tuple[int, int, int, int], dtype: str
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns the gradients of each replica, as a function of (parameters, inputs, keys)."""
    x_RBTD = jax.random.normal(jax.random.key(0), shape, jnp.dtype(dtype))
    mask_BT = jnp.ones(shape[1:3], bool)
    keys_R = jax.random.split(jax.random.key(1), shape[0])

    def init(key: jax.Array) -> Any:
        return layer.init(key, x_RBTD[0], mask_BT, train=False)

    def loss(params: Any, x_BTD: jax.Array, key: jax.Array) -> jax.Array:
        y_BTD = layer.apply(params, x_BTD, mask_BT, train=True, rngs={"dropout": key})
        assert isinstance(y_BTD, jax.Array)
        return jnp.mean(jnp.square(y_BTD.astype(jnp.float32)))

    params = jax.jit(jax.vmap(init))(keys_R)
    return jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)))), (params, x_RBTD, keys_R)


def _repeated(name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Contender:
    last: list[Any] = [None]

    def step() -> None:
        last[0] = function(*arguments)

    return Contender(name, step, lambda: jax.block_until_ready(last[0]))


# ---- Kernels against each other --------------------------------------------------------------


def _add_choices(context: Context, dtype: str, count: int, table: Table) -> None:
    late = context.out_of_time
    if late is not None:
        table.add(kernel="all", replicas=count, step=late)
        return
    for kernel, (ways, arguments) in _kernels(context, dtype, count).items():
        late = context.out_of_time
        if late is not None:
            table.add(kernel=kernel, way="all", replicas=count, step=late)
            continue
        context.say(f"kernels: {kernel}, R = {count}")
        contenders = []
        for way, function in ways.items():
            gradient = jax.jit(jax.vmap(jax.value_and_grad(_mean_square(function))))
            contenders.append(_repeated(way, gradient, arguments))
        times = interleaved(contenders, seconds=_seconds(context))
        first: Timing = times[next(iter(ways))]
        for way, timing in times.items():
            table.add(
                kernel=kernel,
                way=way,
                replicas=count,
                step=milliseconds(timing),
                to_first=ratio(timing, first) or Missing(timing.failure or first.failure),
            )


def _mean_square(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def loss(arguments: tuple[Any, ...]) -> jax.Array:
        return jnp.mean(jnp.square(function(*arguments).astype(jnp.float32)))

    return loss


def _kernels(
    context: Context, dtype: str, count: int
) -> Mapping[str, tuple[Mapping[str, Callable[..., jax.Array]], tuple[Any, ...]]]:
    """Returns kernel -> (way -> function of one replica's arrays), and all replicas' arrays."""

    def draw(*shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(sum(shape)), (count, *shape), jnp.dtype(dtype))

    batch, frames, width = (2, 60, 32) if context.quick else (12, 300, 256)
    heads, depth = (4, 16) if context.quick else (8, 64)
    convolution = {way: _at_dilation(function) for way, function in CONVOLUTIONS.items()}
    qkv = tuple(draw(batch, frames, heads, depth) for _ in range(3))
    attention: dict[str, Callable[..., jax.Array]] = {
        "emojax.layers.attention": _written_attention,
        "jax.nn, xla": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, implementation="xla"),
    }
    if backend() == "gpu":
        attention["jax.nn, cudnn"] = lambda q, k, v: jax.nn.dot_product_attention(
            q, k, v, implementation="cudnn"
        )
    x_RBTD = draw(batch, frames, width)
    return {
        "convolution": (convolution, ((x_RBTD, draw(5, width, width)),)),
        "attention": (attention, (qkv,)),
        "TCN of kernels 3, 5, 7": _multi_kernel(context, dtype, x_RBTD),
        "dropout": ({"emojax.layers.dropout": _dropout, "jax.random": _threefry}, ((x_RBTD,),)),
    }


def _at_dilation(function: Convolution) -> Callable[..., jax.Array]:
    def convolve(x_BTD: jax.Array, kernel_KDE: jax.Array) -> jax.Array:
        return jnp.asarray(function(x_BTD, kernel_KDE, 2, 2 * (len(kernel_KDE) - 1)))

    return convolve


def _multi_kernel(
    context: Context, dtype: str, x_RBTD: jax.Array
) -> tuple[Mapping[str, Callable[..., jax.Array]], tuple[Any, ...]]:
    """Returns both ways of Multi-scale TCN's encoder of a stream, with the same parameters."""
    channels = (32,) if context.quick else (256, 256, 128, 128)
    layers = {
        way: MultiKernelTCN(channels, dtype=jnp.dtype(dtype), dropout=0.0, way=way) for way in WAYS
    }
    mask_BT = jnp.ones(x_RBTD.shape[1:3], bool)

    def init(key: jax.Array) -> Any:
        return layers[WAYS[0]].init(key, x_RBTD[0], mask_BT, train=False)

    def apply(layer: nn.Module) -> Callable[..., jax.Array]:
        def function(params: Any, x_BTD: jax.Array) -> jax.Array:
            y_BTD = layer.apply(params, x_BTD, mask_BT, train=False)
            assert isinstance(y_BTD, jax.Array)
            return y_BTD

        return function

    params = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(2), len(x_RBTD)))
    return {way: apply(layer) for way, layer in layers.items()}, ((params, x_RBTD),)


def _written_attention(q_BTHD: jax.Array, k_BTHD: jax.Array, v_BTHD: jax.Array) -> jax.Array:
    scores = jnp.einsum("bthd,bshd->bhts", q_BTHD, k_BTHD) / jnp.sqrt(q_BTHD.shape[-1])
    weights = attention_weights(scores.astype(jnp.float32), jnp.ones((1, 1, 1, 1), bool))
    return jnp.einsum("bhts,bshd->bthd", weights.astype(v_BTHD.dtype), v_BTHD)


def _dropout(x_BTD: jax.Array) -> jax.Array:
    layer = Dropout(0.1)
    dropped = layer.apply({}, x_BTD, train=True, rngs={"dropout": jax.random.key(0)})
    assert isinstance(dropped, jax.Array)
    return dropped


def _threefry(x_BTD: jax.Array) -> jax.Array:
    kept = jax.random.bernoulli(jax.random.key(0), 0.9, x_BTD.shape)
    return jnp.where(kept, x_BTD / 0.9, 0)
