r"""A training loop in JAX of the networks of scripts/benchmark.py: one jitted program for each step, on one thread.

Feature map, scan over the sites, cross-entropy, gradients and Adam are one program, whose arguments are overwritten
by its results. A site contracts its core in one of two orders, and both are measured:

  outer   (state x feature) as a row of n r numbers, times the core as a matrix (n r, r)
  matrix  the core summed with the feature, a matrix (r, r) for each sample, times the state
"""

import os
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Final

import numpy as np
from torch import Tensor, nn

WAYS: Final = ("outer", "matrix")
ONE_THREAD: Final = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
ADAM: Final = {"rate": 1e-5, "beta": (0.9, 0.999), "epsilon": 1e-8}
Tree = dict[str, Any]


def jax_on_one_thread() -> ModuleType:
    """JAX on the CPU and on one thread; its options are read when it is first imported."""
    flags = os.environ.get("XLA_FLAGS", "")
    if ONE_THREAD not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {ONE_THREAD}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    return jax


def values_of(network: nn.Module) -> Tree:
    """The parameters of our network, feature map and chain, as JAX's arrays by name."""
    named = {name.rpartition(".")[2]: value.detach().numpy().copy() for name, value in network.named_parameters()}
    return {name: jax_on_one_thread().numpy.asarray(value) for name, value in named.items()}


def scores(values: Tree, patches: Any, way: str) -> Any:
    """Scores (batch, classes) of patches (batch, sites, patch_dim); one interior core is that of every site."""
    jax = jax_on_one_thread()
    jnp = jax.numpy
    learned = jax.nn.relu(patches @ values["weight"].T + values["bias"])
    features = jnp.concatenate([learned, jnp.ones((*learned.shape[:2], 1), learned.dtype)], axis=2).swapaxes(0, 1)
    interior, (n, r, _) = values["interior"], values["last"].shape

    def site(state: Any, inputs: tuple[Any, ...]) -> tuple[Any, None]:
        feature, core = inputs if len(inputs) == 2 else (*inputs, interior[0])
        if way == "outer":
            return (feature[:, :, None] * state[:, None, :]).reshape(-1, n * r) @ core.reshape(n * r, r), None
        matrices = (feature @ core.reshape(n, r * r)).reshape(-1, r, r)
        return (state[:, None, :] @ matrices)[:, 0], None

    inside = features[1:-1]
    inputs = (inside,) if len(interior) == 1 else (inside, interior)
    state, _ = jax.lax.scan(site, features[0] @ values["first"], inputs)
    return jnp.einsum("bn,bi,nic->bc", features[-1], state, values["last"])


def loss(values: Tree, patches: Any, labels: Any, way: str) -> Any:
    """Mean cross-entropy."""
    jax = jax_on_one_thread()
    logarithms = jax.nn.log_softmax(scores(values, patches, way))
    return -jax.numpy.take_along_axis(logarithms, labels[:, None], axis=1).mean()


def step(state: tuple[Tree, Tree, Tree, Any], patches: Any, labels: Any, way: str) -> tuple[Tree, Tree, Tree, Any]:
    """One step of Adam on (values, first moments, second moments, number of steps)."""
    jax = jax_on_one_thread()
    values, first, second, steps = state
    (one, two), steps = ADAM["beta"], steps + 1
    gradients = jax.grad(loss)(values, patches, labels, way)
    first = jax.tree.map(lambda m, g: one * m + (1 - one) * g, first, gradients)
    second = jax.tree.map(lambda v, g: two * v + (1 - two) * g * g, second, gradients)
    corrected = ADAM["rate"] / (1 - one**steps)

    def moved(value: Any, m: Any, v: Any) -> Any:
        return value - corrected * m / (jax.numpy.sqrt(v / (1 - two**steps)) + ADAM["epsilon"])

    return jax.tree.map(moved, values, first, second), first, second, steps


def make_jax_steps(
    network: nn.Module, patches: Tensor, labels: Tensor, way: str
) -> tuple[Callable[[], Tree], Callable[[], Any]]:
    """A training step, which gives the values after it, and an inference, from the values of our network."""
    jax = jax_on_one_thread()
    arrays = jax.numpy.asarray(patches.numpy()), jax.numpy.asarray(labels.numpy().astype(np.int32))
    values = values_of(network)
    zeros = jax.tree.map(jax.numpy.zeros_like, values)
    state = [(jax.tree.map(jax.numpy.copy, values), zeros, jax.tree.map(jax.numpy.copy, zeros), jax.numpy.float32(0))]
    trained = jax.jit(partial(step, way=way), donate_argnums=0)
    inferred = jax.jit(partial(scores, way=way))

    def train() -> Tree:
        state[0] = jax.block_until_ready(trained(state[0], *arrays))
        return state[0][0]

    def infer() -> Any:
        return jax.block_until_ready(inferred(values, arrays[0]))

    return train, infer
