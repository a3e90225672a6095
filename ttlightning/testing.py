"""A conformance test for tensor formats: ``check_format`` raises ``AssertionError`` for the first law that one breaks.

from ttlightning.testing import check_format

def test_my_format():
    check_format(lambda sites, mode_size, classes: MyFormat(sites, mode_size, classes, rank=3))
"""

import copy
import itertools
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.func import functional_call

from ttlightning.formats import ScoreTensor
from ttlightning.formats.kernels.scales import scale_by_power_of_two
from ttlightning.rank.finite_field import PRIMES, PrimeField

FormatFactory = Callable[[int, int, int], ScoreTensor]
"""Makes a format from sites, mode size and classes, as ``model.format`` does."""

Dense = Callable[[ScoreTensor], Tensor]
"""The complete weight tensor (n, ..., n, classes) of a format, by code that shares nothing with it."""

BATCH: Final = 3
BOUNDS: Final = ("generic_rank", "published_bound")


def check_format(
    make: FormatFactory, sites: int = 4, mode_size: int = 3, classes: int = 2, dense: Dense | None = None, seed: int = 0
) -> None:
    """Check everything that the rest of the package expects of a format.

    Shapes; linearity in every site; entries and scores against a dense tensor; samples permuted, alone and none; first
    and second derivatives against finite differences, and the same gradient from a graph used twice; scores out of
    range through ``scaled_scores``; float32, float64 and bfloat16 autocast; deepcopy, ``state_dict`` and the meta
    device; exact scores against rational arithmetic, if the format has them; the types of its bounds.

    Args:
        make: makes the format. Its weights are replaced by Gaussian random numbers.
        sites: d, at least 2; the dense tensor has n^d C entries.
        mode_size: n.
        classes: C.
        dense: an oracle for the complete weight tensor.
        seed: of weights and features.

    Raises:
        AssertionError: names the law and the difference.
    """
    generator = torch.Generator().manual_seed(seed)
    format = make(sites, mode_size, classes).double()
    _fill(format, lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64))
    features = torch.randn(BATCH, sites, mode_size, generator=generator, dtype=torch.float64)
    _check_shapes(format, (sites, mode_size, classes), features)
    _check_linearity(format, features, generator)
    if dense is not None:
        _check_dense(format, features, dense(format))
    _check_batch(format, features)
    _check_scales(format, features)
    _check_types(format, features)
    _check_copies(format, partial(make, sites, mode_size, classes), features)
    _check_derivatives(format, features[:2])
    _check_exact_scores(copy.deepcopy(format), generator)


def _fill(format: ScoreTensor, draw: Callable[[torch.Size], Tensor]) -> None:
    with torch.no_grad():
        for parameter in format.parameters():
            parameter.copy_(draw(parameter.shape))


def _close(actual: Tensor, expected: Tensor, law: str, tolerance: float = 1e-9) -> None:
    """Equal up to rounding, relative to the largest number in ``expected``."""
    scale = float(expected.detach().double().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual, expected, rtol=tolerance, atol=tolerance * scale, check_dtype=False, msg=lambda why: f"{law}: {why}"
    )


def _check_shapes(format: ScoreTensor, sizes: tuple[int, int, int], features: Tensor) -> None:
    kept = (format.sites, format.mode_size, format.classes)
    assert kept == sizes, f"sites, mode_size and classes are {kept}, made with {sizes}"
    for name, size in (("rank", format.rank), *((f"{bound}()", getattr(format, bound)() or 1) for bound in BOUNDS)):
        assert isinstance(size, int), f"{name} is {size!r}, not an integer"
        assert size >= 1, f"{name} is {size}, not 1 or more"
    scores = format(features)
    assert scores.shape == (BATCH, format.classes), f"scores have the shape {tuple(scores.shape)}"
    mantissa, exponent = format.scaled_scores(features)
    assert mantissa.shape == scores.shape, f"the mantissa has the shape {tuple(mantissa.shape)}"
    assert exponent.shape == (BATCH,), f"the exponent has the shape {tuple(exponent.shape)}, not one for each sample"
    assert not exponent.is_floating_point(), f"the exponent is {exponent.dtype}, not an integer"
    _close(scale_by_power_of_two(mantissa, exponent), scores, "mantissa * 2**exponent are the scores")


def _check_linearity(format: ScoreTensor, features: Tensor, generator: torch.Generator) -> None:
    other = torch.randn(features.shape, generator=generator, dtype=torch.float64)
    for site in range(format.sites):
        changed, combined = features.clone(), features.clone()
        changed[:, site] = other[:, site]
        combined[:, site] = features[:, site] - 2.5 * other[:, site]
        _close(format(combined), format(features) - 2.5 * format(changed), f"linear in site {site + 1}")


def _check_dense(format: ScoreTensor, features: Tensor, weights: Tensor) -> None:
    shape = (format.mode_size,) * format.sites + (format.classes,)
    assert weights.shape == shape, f"the dense tensor has the shape {tuple(weights.shape)}, not {shape}"
    index = torch.cartesian_prod(*[torch.arange(format.mode_size)] * format.sites)
    one_hot = torch.nn.functional.one_hot(index, format.mode_size).double()
    _close(format(one_hot), weights.flatten(0, -2), "scores of one-hot features are the entries of the dense tensor")
    expected = []
    for sample in features:
        rest = weights
        for site in sample:
            rest = torch.einsum("i,i...->...", site, rest)
        expected.append(rest)
    _close(format(features), torch.stack(expected), "scores are those of the dense tensor")


def _check_batch(format: ScoreTensor, features: Tensor) -> None:
    _close(format(features.flip(0)), format(features).flip(0), "permuting samples permutes their scores", 1e-12)
    alone = torch.cat([format(sample) for sample in features.split(1)])
    _close(alone, format(features), "a sample alone has the scores that it has in a batch", 1e-12)
    assert format(features[:0]).shape == (0, format.classes), "an empty batch has scores of shape (0, classes)"


def _check_scales(format: ScoreTensor, features: Tensor) -> None:
    """Scores of about 2^(+-1200), which float64 cannot hold."""
    mantissa, exponent = format.scaled_scores(features)
    power = 1200 // format.sites + 1
    for sign in (1, -1):
        scaled, other = format.scaled_scores(features * 2.0 ** (sign * power))
        shift = other - exponent - sign * power * format.sites
        law = f"scaled_scores keeps scores that are 2^{sign * power * format.sites} times larger"
        assert shift.abs().max() < 900, f"{law}: the exponent is off by {int(shift.abs().max())}, so the range was left"
        _close(scale_by_power_of_two(scaled, shift), mantissa, law)


def _check_types(format: ScoreTensor, features: Tensor) -> None:
    expected = format(features)
    single = copy.deepcopy(format).float()
    scores = single(features.float())
    assert scores.dtype == torch.float32, f"scores of float32 features are {scores.dtype}"
    _close(scores, expected, "scores in float32", 1e-4)
    rounded = features.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = single(rounded)
    _close(mixed.double(), format(rounded.double()), "scores inside bfloat16 autocast", 0.05)


def _check_copies(format: ScoreTensor, make: Callable[[], ScoreTensor], features: Tensor) -> None:
    expected = format(features)
    assert torch.equal(copy.deepcopy(format)(features), expected), "a deepcopy gives other scores"
    other = make().double()
    other.load_state_dict(format.state_dict())
    assert torch.equal(other(features), expected), "a format with the same state_dict gives other scores"
    with torch.device("meta"):
        empty = make().double()
        assert empty(features.to("meta")).shape == expected.shape, "on the meta device scores have another shape"
    empty.load_state_dict(format.state_dict(), assign=True)
    assert torch.equal(empty(features), expected), "made on the meta device and given weights, it has other scores"


def _check_derivatives(format: ScoreTensor, features: Tensor) -> None:
    names = [name for name, _ in format.named_parameters()]

    def scores(features: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(format, dict(zip(names, parameters, strict=True)), (features,))

    inputs = [t.detach().clone().requires_grad_() for t in (features, *format.parameters())]
    for order, check in enumerate((torch.autograd.gradcheck, torch.autograd.gradgradcheck), start=1):
        try:
            check(scores, tuple(inputs), fast_mode=True, atol=1e-4, rtol=1e-3)
        except Exception as fault:
            raise AssertionError(
                f"derivatives of order {order} are not those of finite differences: {fault}"
            ) from fault
    total = scores(*inputs).square().sum()
    first, second = (torch.autograd.grad(total, inputs, retain_graph=True) for _ in range(2))
    same = all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert same, "a graph that is used twice gives two gradients"


def _check_exact_scores(format: ScoreTensor, generator: torch.Generator) -> None:
    """With weights of 0 and +-1/2, float64 is exact, and its scores are the rational numbers to compare with."""
    if type(format).exact_scores is ScoreTensor.exact_scores:
        return
    features = torch.randint(-1, 2, (format.sites, 2, format.mode_size), generator=generator).double()
    choices = [*itertools.product(range(2), repeat=format.sites)]
    grid = torch.stack([features[range(format.sites), list(choice)] for choice in choices])
    _fill(format, torch.ones)
    largest = float(format(grid.abs()).detach().max())
    assert largest < 2**53, (
        f"scores of up to {largest:.1e} are not exact in float64: check fewer sites or a smaller rank"
    )
    _fill(format, lambda shape: torch.randint(-1, 2, shape, generator=generator).double() / 2)
    field = PrimeField(PRIMES[0])
    exact = [*format.exact_scores([field.residues(at_site) for at_site in features], field)]
    assert len(exact) == format.classes, f"exact_scores gives {len(exact)} classes, not {format.classes}"
    for y, scores in enumerate(format(grid).detach().T.tolist()):
        assert exact[y].shape == (len(choices),), f"exact_scores of class {y} have the shape {exact[y].shape}"
        expected = [(f := Fraction(s)).numerator * pow(f.denominator, -1, field.prime) % field.prime for s in scores]
        for choice, counted, right in zip(choices, exact[y].tolist(), expected, strict=True):
            law = f"exact score of class {y} at the feature vectors {choice}"
            assert counted == right, f"{law} is {counted}, but {right} in rational arithmetic"
