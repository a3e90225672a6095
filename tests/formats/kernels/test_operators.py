"""The compiled chain inside torch.compile: one operator, the bits of the kernel, and what cannot be an operator."""

import pytest
import torch
from kinds import CHAINS, inputs_of, made, needs_compiler

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native, operators

pytestmark = [needs_compiler, pytest.mark.filterwarnings("ignore")]
DTYPES = [torch.float32, torch.float64]


def compiled(function, graphs=None, backend="aot_eager"):
    """``function`` compiled as one graph, for batches of any size; the graphs are appended to ``graphs``."""
    torch._dynamo.reset()

    def record(graph, inputs):
        if graphs is not None:
            graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    return torch.compile(function, backend=record, fullgraph=True, dynamic=True)


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize(
    ("sites", "dtype"),
    [(9, torch.float32), *(pytest.param(d, t, marks=pytest.mark.slow) for d in (2, 200) for t in DTYPES)],
)
def test_a_compiled_chain_is_one_operator_with_the_kernels_bits(kind, sites, dtype):
    """Any batch, with and without gradients; 200 sites keep only some states."""
    graphs = []
    format, _ = made(kind, sites, dtype)
    scores = compiled(format, graphs)
    for batch in (3, 8, 1):
        features = torch.randn(batch, sites, 2, dtype=dtype, requires_grad=True)
        inputs = inputs_of(format, features)
        found, expected = scores(features), format(features)
        assert torch.equal(found, expected)
        for slope, right in zip(*(torch.autograd.grad(s.sin().sum(), inputs) for s in (found, expected)), strict=True):
            assert torch.equal(slope, right)
        with torch.no_grad():
            assert torch.equal(scores(features), expected)
    assert graphs
    for graph in graphs:
        assert [node.target for node in graph.graph.nodes if "ttlightning" in str(node.target)] == [
            torch.ops.ttlightning.chain.default
        ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operators_are_what_torch_expects(dtype):
    """The memory has bytes that are never written; torch's comparison of all outputs does not apply."""
    format, features = made(CHAINS[0], 5, dtype)
    inputs = inputs_of(format, features)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operators.chain, (*inputs, native.KEEP_ALL), test_utils=checks)
    mantissa, exponent, memory = operators.chain(*inputs, native.KEEP_ALL)
    saved = (torch.randn_like(mantissa), *inputs, exponent, memory, native.KEEP_ALL)
    torch.library.opcheck(operators.chain_backward, saved, test_utils=("test_schema", "test_faketensor"))
    if dtype == torch.float64:
        torch.autograd.gradgradcheck(lambda *p: operators.chain(*p, native.KEEP_ALL)[0], inputs)


def test_without_a_compiled_kernel_the_operator_says_so(monkeypatch):
    format, features = made(CHAINS[0], 5)
    monkeypatch.setattr(native, "kernel", lambda: None)
    with pytest.raises(UserError, match="needs the compiled kernel"):
        operators.chain(*inputs_of(format, features), native.KEEP_ALL)


@pytest.mark.slow
def test_transforms_inside_a_compiled_function_use_operations():
    format, features = made(CHAINS[0], 5)
    x = features.detach()
    functions = (
        torch.func.vmap(torch.func.grad(lambda sample: format(sample.unsqueeze(0)).square().sum())),
        torch.func.jacrev(format),
        lambda x: torch.func.jvp(format, (x,), (x.cos(),)),
    )
    for function in functions:
        graphs = []
        torch.testing.assert_close(compiled(function, graphs)(x), function(x))
        assert "ttlightning" not in "".join(str(graph.graph) for graph in graphs)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor_compiles_a_network_and_its_gradients(mode):
    format, features = made(CHAINS[1], 16, torch.float32)
    torch._dynamo.reset()
    scores = torch.compile(format, fullgraph=True, mode=mode)
    inputs = inputs_of(format, features)
    for _ in range(3):
        found, expected = scores(features), format(features)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(
            *(torch.autograd.grad(s.sin().sum(), inputs) for s in (found, expected)), rtol=1e-4, atol=1e-5
        )
