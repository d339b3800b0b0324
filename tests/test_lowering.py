"""Tests that every system lowers for TPU and CUDA, without such a machine.

Lowering (tracing, and translating to StableHLO for one platform) fails when a layer needs an
operation that the platform does not have. Compiling and running there are not tested.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from emojax.core.session import Session, abstract_normalisation, build_session
from emojax.core.step import Hyper, make_train_step, train_steps
from emojax.datasets.resident import Entries, load_resident
from emojax.datasets.source import Store
from emojax.layers import kernels
from emojax.models import model_names
from emojax.papers.variants import Variant
from emojax.prediction.predict_step import make_predict_step
from emojax.training.feeds import fold_videos
from emojax.training.memory_plan import abstract_batch
from tests.small_models import SYSTEMS, default_fields, shipped, small_session
from tests.small_store import build_small_store
from tests.training_runs import tiny_config

pytestmark = pytest.mark.slow

# What ``jax.export`` calls a platform -> what ``jax.default_backend`` calls it there.
PLATFORMS = {"tpu": "tpu", "cuda": "gpu"}


def one_of_each() -> dict[str, Variant]:
    """Returns model -> the first variant of it that is shipped."""
    found: dict[str, Variant] = {}
    for variant in shipped():
        found.setdefault(variant.make().model.name, variant)
    return found


FIRST = one_of_each()
# Each system for one platform, and RJCMA for both. The other pairs are lowered nightly.
IN_CI = {(name, "cuda") for name in SYSTEMS} | {("rjcma", "tpu")}


def lowered(platform: str, program: Callable[..., Any], *arguments: Any) -> jax.export.Exported:
    """Returns a jitted function as that platform would get it."""
    with kernels.compiled_for(PLATFORMS[platform]):
        exported = jax.export.export(program, platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)
    return exported


def abstract(tree: Any, sharding: Any = None, lead: tuple[int, ...] = ()) -> Any:
    """Returns shapes of a tree, on these devices, with more axes in front."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*lead, *np.shape(x)), x.dtype, sharding=sharding), tree
    )


def abstract_hyper(session: Session) -> Hyper:
    count = len(session.replicas)
    shape = jax.ShapeDtypeStruct((count,), np.float32)
    hyper = Hyper(shape, shape, session.weights, jax.ShapeDtypeStruct((count,), bool))
    return abstract(hyper, session.layout.replica_sharding)


def arguments_of(session: Session, batch: Any = None) -> tuple[Any, ...]:
    """Returns the arguments of a training step."""
    return (
        session.abstract_state(),
        abstract_batch(session.streams, session.window_spec, session.batch_size)
        if batch is None
        else batch,
        abstract(abstract_normalisation(session.streams, len(session.folds.keys))),
        abstract_hyper(session),
    )


def weights_of(state: Any) -> dict[str, Any]:
    return {"params": state.params, "model_state": state.model_state}


@functools.cache
def with_dropout(name: str) -> tuple[Session, tuple[Any, ...]]:
    """Returns a small model with dropout, whose bits each platform draws in its own way."""
    variant = FIRST[name]
    known = default_fields(variant.make().model["name"])
    rates = ("dropout", "temporal_dropout", "input_dropout")
    session = small_session(variant, **{rate: 0.2 for rate in rates if rate in known})
    return session, arguments_of(session)


def train_step(session: Session) -> Any:
    shared = session.shared(session.samplers)
    return make_train_step(session.learner, shared)


def test_every_model_is_lowered() -> None:
    assert set(FIRST) == set(model_names()) > set(SYSTEMS)


@pytest.mark.parametrize(
    ("name", "platform"),
    [pytest.param(name, platform, marks=() if (name, platform) in IN_CI else pytest.mark.nightly)
     for name in FIRST for platform in PLATFORMS if name in SYSTEMS or platform == "tpu"],
)  # fmt: skip
def test_steps_lower(name: str, platform: str) -> None:
    """Loss, gradient and update with its buffers donated; and predicting."""
    session, arguments = with_dropout(name)
    state, batch, normalisation, _ = arguments
    trained = lowered(platform, train_step(session), *arguments)
    leaves = len(jax.tree.leaves(state))
    assert len(trained.out_avals) == leaves + 2
    # Each donated buffer is one that an output of the same shape takes over.
    assert trained.mlir_module().count("tf.aliasing_output") == leaves
    predict = make_predict_step(session.model, session.shared(session.folds))
    predicted = lowered(platform, predict, weights_of(state), batch, normalisation)
    assert len(predicted.out_avals) == len(session.tasks)
    lead = (len(session.replicas), session.batch_size)
    assert {aval.shape[:2] for aval in predicted.out_avals} == {lead}


def convolutions(exported: jax.export.Exported) -> int:
    return exported.mlir_module().count("stablehlo.convolution")


def test_what_is_lowered_is_what_that_platform_takes() -> None:
    """Convolutions for TPUs, products of matrices for GPUs, and neither leaks into the other."""
    session = small_session(FIRST["rjcma"])
    state, batch, normalisation, _ = arguments_of(session)
    predict = make_predict_step(session.model, session.shared(session.folds))
    arguments = weights_of(state), batch, normalisation
    here = jax.export.export(predict, platforms=["tpu"])(*arguments)
    assert kernels.TEMPORAL_CONVOLUTION["gpu"] == "one_product"
    # The same function each time, so that what was traced before could be taken again.
    for platform, some in (("cuda", False), ("tpu", True), ("cuda", False)):
        assert (convolutions(lowered(platform, predict, *arguments)) > 0) is some, platform
    again = jax.export.export(predict, platforms=["tpu"])(*arguments)
    assert convolutions(here) == convolutions(again) > 0


def test_only_known_backends_are_compiled_for() -> None:
    with pytest.raises(ValueError, match="cuda"):
        kernels.compiled_for("cuda")
    with kernels.compiled_for("tpu"):
        assert kernels.chosen({"tpu": "there", "gpu": "else"}) == "there"
        with kernels.compiled_for("gpu"):
            assert kernels.chosen({"tpu": "there", "gpu": "else"}) == "else"
        assert kernels.chosen({"tpu": "there", "gpu": "else"}) == "there"
    assert kernels.chosen({"cpu": "here", "tpu": "there", "gpu": "else"}) == "here"


# -- on many devices, and many steps ---------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(build_small_store(tmp_path_factory.mktemp("store") / "small"))


def spread_session(store: Store) -> Session:
    """Returns four replicas by two parts of a batch, on eight devices."""
    replicas = {"folds": ["0"], "targets": ["valence", "arousal"], "seeds": [0, 1]}
    return build_session(tiny_config(store.path, replicas=replicas), store.streams, jax.devices())


def test_a_step_over_a_mesh_lowers(store: Store) -> None:
    session = spread_session(store)
    mesh = session.layout.mesh
    assert mesh.devices.shape == (4, 2)
    grouped = len(session.samplers.keys)
    batch = abstract(
        abstract_batch(session.streams, session.window_spec, session.batch_size),
        _over_data(session, None),
        (grouped,),
    )
    exported = lowered("tpu", train_step(session), *arguments_of(session, batch))
    assert exported.nr_devices == mesh.size
    module = exported.mlir_module()
    assert '"replica"' in module
    assert '"data"' in module
    # Which output takes over a buffer is for the compiler to say, once it has laid them out.
    assert module.count("jax.buffer_donor") == len(jax.tree.leaves(session.abstract_state()))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_many_steps_on_resident_data_lower(store: Store, platform: str) -> None:
    """The program that gathers the windows of K steps and takes them in a loop."""
    session, steps = spread_session(store), 3
    shared = session.shared(session.samplers)
    program = train_steps(session.learner, shared, session.layout, session.window_spec)
    state, _, normalisation, hyper = arguments_of(session)
    data = abstract(
        load_resident(store, fold_videos(store, session.folds.keys), session.window_spec)
    )
    groups = len(session.samplers.keys)
    entries = jax.ShapeDtypeStruct(
        (steps, groups, session.batch_size, 2), np.int32, sharding=_over_data(session, None, None)
    )
    rates = jax.ShapeDtypeStruct((steps, len(session.replicas)), np.float32)
    exported = lowered(
        platform, program, state, Entries(data, entries), normalisation, hyper, rates
    )
    assert "stablehlo.while" in exported.mlir_module()
    losses = [aval for aval in exported.out_avals if aval.shape == (steps, len(session.replicas))]
    assert len(losses) == 2  # the loss and the norm of the gradient


def _over_data(session: Session, *before: None) -> jax.sharding.NamedSharding:
    axes = jax.sharding.PartitionSpec(*before, "data")
    return jax.sharding.NamedSharding(session.layout.mesh, axes)
