"""What torch's own tools make of the formats: every format and kernel, both types, against the dense tensor.

Checkpoints and hooks give the gradients of a plain call to the bit; second derivatives and those by ``torch.func`` are
those of the dense tensor's scores, at d = 128 those of the recurrence as it is written.
"""

import copy
import io
import pickle

import pytest
import torch
from kinds import KERNELS, by_kernel, inputs_of, made, needs_compiler
from oracles import dense, dense_scores
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from ttlightning import HierarchicalTucker, TensorTrain, UserError
from ttlightning.formats.kernels import derivatives, dispatch

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=KERNELS, ids=lambda p: f"{p[0].__name__}, {p[1]}")
def kind(request, monkeypatch):
    """A format, computed by one of the kernels that it may have on a CPU."""
    return by_kernel(*request.param, monkeypatch)


@pytest.fixture(params=[p for p in KERNELS if p[1] in ("native", "torch")], ids=lambda p: f"{p[0].__name__}, {p[1]}")
def main_kind(request, monkeypatch):
    """The same without the variants of a kernel."""
    return by_kernel(*request.param, monkeypatch)


class Dense(torch.nn.Module):
    """The oracle: the same parameters, the whole tensor."""

    def __init__(self, format):
        super().__init__()
        self.format = format

    def forward(self, features):
        return dense_scores(dense(self.format), features)


def function_of(module, format):
    """Its scores as a function of features and of the format's parameters."""
    prefix = "format." if isinstance(module, Dense) else ""
    names = [prefix + name for name, p in format.named_parameters() if p.numel()]

    def scores(features, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (features,))

    return scores


def loss_of(scores):
    return scores.tanh().square().sum() + (scores * torch.linspace(-1, 2, scores.numel()).view_as(scores)).sum()


def gradients_of(scores, inputs):
    return torch.autograd.grad(loss_of(scores), inputs)


def assert_same_bits(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(e.abs().max() > 0 for e in expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sites", [2, 3, 9, 20, 128])
def test_a_checkpoint_changes_no_bit(kind, sites, dtype):
    format, features = made(kind, sites, dtype)
    inputs = inputs_of(format, features)
    expected = gradients_of(format(features), inputs)
    other = torch.randn(50, 1000)  # memory that was free is used again
    found = gradients_of(checkpoint(format, features, use_reentrant=False), inputs)
    assert_same_bits(found, expected)
    assert other.isfinite().all()


HOOKS = {
    "clone": (lambda t: t.clone(), lambda t: t.clone()),
    "numpy": (lambda t: t.numpy().copy(), lambda a: torch.from_numpy(a.copy())),
    "strided": (lambda t: t.unsqueeze(-1).expand(*t.shape, 2).clone(), lambda t: t[..., 0]),
    "the same": (lambda t: t, lambda t: t),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sites", [2, 3, 9, 20, 128])
@pytest.mark.parametrize("hooks", [*HOOKS, "save_on_cpu"])
def test_hooks_change_no_bit(kind, sites, dtype, hooks):
    """Twice through a graph that is kept, too."""
    format, features = made(kind, sites, dtype)
    inputs = inputs_of(format, features)
    expected = gradients_of(format(features), inputs)
    context = (
        torch.autograd.graph.save_on_cpu()
        if hooks == "save_on_cpu"
        else torch.autograd.graph.saved_tensors_hooks(*HOOKS[hooks])
    )
    with context:
        loss = loss_of(format(features))
    for retain in (True, False):
        found = torch.autograd.grad(loss, inputs, retain_graph=retain)
        if hooks == "strided":  # other strides, other products of the library
            torch.testing.assert_close(found, expected, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=1e-6)
        else:
            assert_same_bits(found, expected)


@pytest.mark.parametrize("hooks", [(torch.Tensor.half, torch.Tensor.float), (lambda t: t, lambda t: t.flatten()[:1])])
@pytest.mark.parametrize("kind", [TensorTrain, HierarchicalTucker])
@needs_compiler
def test_hooks_that_give_back_something_else_are_refused(kind, hooks):
    """The compiled kernel would read memory that is not there."""
    format, features = made(kind, 9, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        loss = format(features).sum()
    with pytest.raises(UserError, match="a hook on saved tensors has given back other types, sizes or devices"):
        loss.backward()


@pytest.mark.parametrize("sites", [2, 3, 9])
def test_second_derivatives_are_the_oracles(kind, sites):
    """By autograd.functional, by a penalty on the gradient, and what a penalty says of the parameters."""
    format, features = made(kind, sites)
    inputs = tuple(inputs_of(format, features))
    ours, oracle = function_of(format, format), function_of(Dense(format), format)
    for vectorize in (False, True):
        found, expected = (
            torch.autograd.functional.hessian(lambda *p, f=f: loss_of(f(*p)), inputs, vectorize=vectorize)
            for f in (ours, oracle)
        )
        for row, right in zip(found, expected, strict=True):
            torch.testing.assert_close(row, right, rtol=1e-9, atol=1e-10)
    penalties = []
    for f in (ours, oracle):
        slopes = torch.autograd.grad(loss_of(f(*inputs)), inputs, create_graph=True)
        penalty = sum(slope.square().sum() for slope in slopes)
        penalties.append([penalty, *torch.autograd.grad(penalty, inputs)])
        assert penalty > 0
    torch.testing.assert_close(*penalties, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_chains_have_second_derivatives(kind, dtype, monkeypatch):
    """d = 128, by hand first and then by operations, through a checkpoint too, against operations alone in float64."""
    penalties = []
    for of, checkpointed, by_hand in ((dtype, False, True), (dtype, True, True), (torch.float64, False, False)):
        if not by_hand:
            monkeypatch.setattr(dispatch, "by_operations", lambda *_: True)
            monkeypatch.setattr(derivatives, "by_operations", lambda *_: True)
        format, features = made(kind, 128, torch.float32)
        format, features = format.to(of), features.detach().to(of).requires_grad_()
        inputs = inputs_of(format, features)
        scores = checkpoint(format, features, use_reentrant=False) if checkpointed else format(features)
        unit = scores / scores.detach().abs().amax(1, keepdim=True)
        slopes = torch.autograd.grad(unit.sum(), inputs, create_graph=True)
        penalties.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs))
    for found in penalties[:2]:
        for a, b in zip(found, penalties[2], strict=True):
            tolerance = (1e-3 if dtype == torch.float32 else 1e-10) * float(b.abs().max())
            torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("sites", [2, 3, 9])
def test_transforms_are_the_oracles(main_kind, sites):
    """grad, vmap, jacrev, jacfwd, hessian and jvp of torch.func, dual numbers of torch.autograd."""
    format, features = made(main_kind, sites)
    inputs = tuple(p.detach() for p in inputs_of(format, features))
    ours, oracle = function_of(format, format), function_of(Dense(format), format)

    def all_of(f):
        def loss(*p):
            return loss_of(f(*p))

        every = tuple(range(len(inputs)))
        with dual_level():
            dual = unpack_dual(f(*(make_dual(p, p.cos()) for p in inputs)))
        return [
            torch.func.grad(loss, argnums=every)(*inputs),
            torch.func.vmap(lambda x: f(x.unsqueeze(0), *inputs[1:])[0])(inputs[0]),
            torch.func.vmap(f, in_dims=(None, *(0 for _ in inputs[1:])))(
                inputs[0], *(torch.stack([p, -p]) for p in inputs[1:])
            ),
            torch.func.jacrev(f, argnums=every)(*inputs),
            torch.func.jacfwd(f)(*inputs),
            torch.func.hessian(loss, argnums=1)(*inputs),
            torch.func.jvp(f, inputs, tuple(p.sin() for p in inputs)),
            (dual.primal, dual.tangent),
            torch.autograd.functional.jacobian(f, inputs, vectorize=True),
        ]

    for found, expected in zip(all_of(ours), all_of(oracle), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_gradients_of_every_sample_and_network_are_the_oracles(main_kind):
    """vmap(grad) over samples, and over the parameters of several networks, by functional_call."""
    format, features = made(main_kind, 4)
    parameters = {name: p.detach() for name, p in format.named_parameters()}
    networks = {name: torch.stack([p, -2 * p]) for name, p in parameters.items()}

    def slopes(module, prefix):
        def loss(parameters, sample):
            named = {prefix + name: p for name, p in parameters.items()}
            return loss_of(torch.func.functional_call(module, named, (sample.unsqueeze(0),)))

        of_samples = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
        return of_samples(parameters, features.detach()), torch.func.vmap(of_samples, in_dims=(0, None))(
            networks, features.detach()
        )

    found, expected = slopes(format, ""), slopes(Dense(format), "format.")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_torchs_own_checks_of_derivatives(main_kind):
    """Backward, forward mode, both for batches of directions, and second derivatives, beside finite differences."""
    format, features = made(main_kind, 4)
    inputs = tuple(inputs_of(format, features))
    scores = function_of(format, format)
    every = ("check_forward_ad", "check_backward_ad", "check_batched_grad", "check_batched_forward_grad")
    assert torch.autograd.gradcheck(scores, inputs, **dict.fromkeys(every, True))
    assert torch.autograd.gradgradcheck(scores, inputs)


def test_copies_have_the_same_scores(main_kind):
    """deepcopy, pickle, torch.save, state_dict, the replicas of DataParallel."""
    format, features = made(main_kind, 4, torch.float32)
    file = io.BytesIO()
    torch.save(format, file)
    file.seek(0)
    restored = main_kind(format.sites, 2, 2, rank=3)
    restored.load_state_dict(format.state_dict())
    replica = format._replicate_for_data_parallel()
    for name, parameter in format.named_parameters(recurse=False):
        setattr(replica, name, parameter.clone())
    copies = copy.deepcopy(format), pickle.loads(pickle.dumps(format)), torch.load(file, weights_only=False)
    for other in (*copies, restored, replica):
        assert torch.equal(other(features), format(features))


@pytest.mark.parametrize("mode", ["real", "fake", "pre_dispatch"])
def test_recorded_graphs_compute_the_scores(main_kind, mode):
    """Other inputs run through the graph, not what lay in memory when it was recorded."""
    format, features = made(main_kind, 5, torch.float32)
    scores = function_of(format, format)
    inputs = [p.detach() for p in inputs_of(format, features)]
    others = [torch.randn_like(p) for p in inputs]
    options = {"pre_dispatch": True} if mode == "pre_dispatch" else {"tracing_mode": mode}
    torch.testing.assert_close(make_fx(scores, **options)(*inputs)(*others), scores(*others))
    if mode != "pre_dispatch":
        slope = torch.func.grad(lambda *p: scores(*p).square().sum())
        torch.testing.assert_close(make_fx(slope, **options)(*inputs)(*others), slope(*others))


@pytest.mark.filterwarnings("ignore")
def test_compiled_exported_and_traced(main_kind):
    torch._dynamo.reset()
    format, features = made(main_kind, 4, torch.float32)
    x, other = features.detach(), torch.randn_like(features)
    expected = [t.detach() for t in (format(other), *gradients_of(format(features), inputs_of(format, features)))]
    compiled = torch.compile(format, backend="aot_eager", fullgraph=True)
    found = [compiled(other), *gradients_of(compiled(features), inputs_of(format, features))]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.export.export(format, (x,)).module()(other), expected[0])
    with pytest.raises(UserError, match=r"use torch\.export\.export"):
        torch.jit.trace(format, (x,))
    with pytest.raises(UserError, match=r"torch\.jit\.script cannot compile .*, use torch\.export\.export"):
        torch.jit.script(format)


def test_tensors_without_memory(main_kind):
    """Fake and meta tensors have shapes; a flipped sign bit, a subclass and another default device have values."""
    format, features = made(main_kind, 9, torch.float32)
    expected = format(features)
    scores, inputs = function_of(format, format), inputs_of(format, features)
    mode = FakeTensorMode()
    fake = [mode.from_tensor(p.detach()).requires_grad_() for p in inputs]
    for tensors in (fake, [p.detach().to("meta").requires_grad_() for p in inputs]):
        found = scores(*tensors)
        assert found.shape == expected.shape
        slopes = torch.autograd.grad(found.sum(), tensors)
        assert all(slope.shape == p.shape for slope, p in zip(slopes, inputs, strict=True))
    with pytest.raises(UserError, match="features are on cpu, the cores on meta"):
        copy.deepcopy(format).to("meta")(features)
    flipped = torch._neg_view(-features.detach())
    assert flipped.is_neg()
    assert torch.equal(format(flipped), expected)

    class Named(torch.Tensor):
        pass

    torch.testing.assert_close(format(features.detach().as_subclass(Named)).as_subclass(torch.Tensor), expected)
    with torch.device("meta"):
        assert torch.equal(format(features), expected)
        assert_same_bits(gradients_of_sum(format(features), features), gradients_of_sum(expected, features))


def gradients_of_sum(scores, features):
    return torch.autograd.grad(scores.sum(), features, retain_graph=True)


def test_an_argument_that_depends_on_another():
    """Partial derivatives of the contraction, and autograd's chain rule around them."""
    format, features = made(TensorTrain, 5)
    tied = features * format.last.sum()
    slope = torch.autograd.grad(loss_of(format(tied)), format.last, create_graph=True)[0]
    again = Dense(format)(tied)
    torch.testing.assert_close(slope, torch.autograd.grad(loss_of(again), format.last, create_graph=True)[0])


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_inside_autocast_nothing_is_rounded(kind, autocast):
    """Backward inside it too, as manual optimization has it, and second derivatives."""
    format, features = made(kind, 9, torch.float32)
    inputs = inputs_of(format, features)
    low = features.detach().to(autocast).requires_grad_()
    with torch.autocast("cpu", dtype=autocast):
        scores = format(features)
        found = gradients_of(scores, inputs)
        penalty = torch.autograd.grad(format(features).sum(), features, create_graph=True)[0].square().sum()
        mantissa, _ = format.scaled_scores(low)
        assert mantissa.dtype == torch.float32
        from_low = format(low)
    twice = torch.autograd.grad(penalty, features)  # of an operation's backward, autocast is torch's affair
    assert_same_bits([scores, *found], [format(features), *gradients_of(format(features), inputs)])
    penalty = torch.autograd.grad(format(features).sum(), features, create_graph=True)[0].square().sum()
    assert_same_bits(twice, torch.autograd.grad(penalty, features))
    assert torch.equal(from_low, format(low.float()))
    assert torch.autograd.grad(from_low.sum(), low)[0].dtype == autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.int64])
def test_other_types_are_refused_in_one_line(main_kind, dtype):
    format, features = made(main_kind, 4, torch.float32)
    if dtype == torch.int64:
        with pytest.raises(UserError, match=r"features are torch.int64, the cores torch.float32"):
            format(features.detach().to(dtype))
        return
    with pytest.raises(UserError, match=f"compute in torch.float32 or torch.float64, got {dtype}"):
        format.to(dtype)(features.to(dtype))
