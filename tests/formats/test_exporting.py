"""torch.export and ONNX of every format: any batch, scores out of range too; the powers of two of such a program."""

import io

import pytest
import torch
from kinds import CHAINS, FORMATS, TREES, made

from ttlightning.formats.kernels.exporting import power_of_two_from_table, scales_by_logarithm
from ttlightning.formats.kernels.scales import LAYOUTS, below_the_largest

DTYPES = [torch.float32, torch.float64]
FAST = (CHAINS[1], TREES[0])
SMALLEST = {dtype: 1 - bias for dtype, (_, bias, _) in LAYOUTS.items()}


class Parts(torch.nn.Module):
    """Scores, and their differences, which exist also where the scores are out of range."""

    def __init__(self, format):
        super().__init__()
        self.format = format

    def forward(self, features):
        return self.format(features), below_the_largest(*self.format.scaled_scores(features))


def exported(kind, sites, dtype):
    format, features = made(kind, sites, dtype)
    parts = Parts(format.requires_grad_(False))
    batch = {0: torch.export.Dim("batch")}
    return parts, torch.export.export(parts, (features.detach(),), dynamic_shapes=(batch,))


def assert_same_scores(program, parts, dtype):
    """Batches of 1, 2 and 300; samples of very different sizes; scores beyond the type's range."""
    for batch in (1, 2, 300):
        features = torch.randn(batch, parts.format.sites, 2, dtype=dtype)
        features[-1] *= 1e-3
        found, right = program(features), parts(features)
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))
    huge = features * torch.tensor([1e12 if dtype == torch.float32 else 1e90, 1.0], dtype=dtype)
    plain, below = program(huge)
    expected = parts(huge)
    assert expected[0].isinf().any()
    assert torch.equal(plain.isinf(), expected[0].isinf())
    assert torch.equal(below.argmax(1), expected[1].argmax(1))
    inside = expected[1].isfinite()
    torch.testing.assert_close(below[inside].log2(), expected[1][inside].log2(), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in FORMATS])
def test_an_exported_program_takes_any_batch_and_range(kind):
    parts, program = exported(kind, 4, torch.float32)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert_same_scores(torch.export.load(file).module(), parts, torch.float32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.nightly) for k in FORMATS])
def test_onnxruntime_computes_the_scores(kind, dtype):
    runtime = pytest.importorskip("onnxruntime")
    parts, program = exported(kind, 9, dtype)
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [name] = [value.name for value in session.get_inputs()]

    def run(features):
        return [torch.from_numpy(output) for output in session.run(None, {name: features.numpy()})]

    assert_same_scores(run, parts, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_two_from_the_table_are_exact(dtype):
    smallest = SMALLEST[dtype]
    exponents = torch.arange(smallest - 3, 5 - smallest, dtype=torch.int32)
    expected = torch.ldexp(torch.ones(len(exponents)).double(), exponents.clamp(smallest, 1 - smallest)).to(dtype)
    assert torch.equal(power_of_two_from_table(exponents, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_by_a_logarithm_are_powers_of_two(dtype):
    """Beside every power of two, where a logarithm is rounded, too; 0, inf and NaN have scales as well."""
    smallest = SMALLEST[dtype]
    powers = power_of_two_from_table(torch.arange(smallest, -smallest), dtype)
    around = [torch.nextafter(powers, torch.tensor(end, dtype=dtype)) for end in (0.0, float("inf"))]
    values = torch.cat([powers, *around])
    values = values[(values >= torch.finfo(dtype).tiny) & (values < 2.0 ** (-smallest - 1))]
    scales, exponents = scales_by_logarithm(values)
    assert torch.equal(torch.frexp(scales).mantissa, torch.full_like(scales, 0.5))
    assert torch.equal(torch.frexp(scales).exponent - 1, -exponents)
    brought = values * scales
    assert ((brought > 0.499) & (brought <= 1)).all()
    odd = torch.tensor([0.0, float("inf"), float("nan"), torch.finfo(dtype).max], dtype=dtype)
    scales, exponents = scales_by_logarithm(odd)
    assert (scales > 0).all()
    assert torch.equal(torch.frexp(scales).exponent - 1, -exponents)
    assert torch.equal((odd * scales).isfinite(), odd.isfinite())
