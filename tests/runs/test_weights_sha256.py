"""The hash of a network's weights."""

import pytest
import torch

from ttlightning.runs.checkpoints import weights_sha256


def test_the_hash_is_that_of_earlier_versions():
    """Of ordinary names, as every version has computed it."""
    state = {"format.first": torch.arange(6.0).reshape(2, 3), "features.bias": torch.tensor(7, dtype=torch.int64)}
    assert weights_sha256(state) == "f587585aed6b5cd377d13ea9e6513232ce5c2e40a14e99622f74e581a2ce89ec"
    assert weights_sha256(dict(reversed(state.items()))) == weights_sha256(state)


ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0])


def swallowed() -> tuple[dict, dict]:
    """Two tensors; and one whose name holds the text that the first of them would leave."""
    text = f"a {ONE.dtype} (1,)\n".encode() + ONE.numpy().tobytes() + b"b"
    return {"a": ONE, "b": TWO}, {text.decode("latin-1"): TWO}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        swallowed(),
        ({"": torch.zeros(0), "x": ONE}, {f" {ONE.dtype} (0,)\nx": ONE}),
        ({"x": torch.zeros(0), "y": ONE}, {f"x {ONE.dtype} (0,)\ny": ONE}),
        ({'"a b"': ONE}, {"a b": ONE}),
        ({"a\u2028b": ONE}, {"a\\u2028b": ONE}),
        ({"\ud83d\ude00 ": ONE}, {"\U0001f600 ": ONE}),
        ({"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int32)}),
        ({"a": torch.zeros(2, dtype=torch.bfloat16)}, {"a": torch.zeros(2, dtype=torch.float16)}),
        ({"a": torch.zeros(())}, {"a": torch.zeros(1)}),
        ({"a": torch.zeros(0, 3)}, {"a": torch.zeros(0, 4)}),
        ({"a": torch.tensor([1 + 2j])}, {"a": torch.tensor([1 + 2j]).conj()}),
    ],
)
def test_different_states_have_different_hashes(first, second):
    assert weights_sha256(first) != weights_sha256(second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.bool, torch.int8])
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 6)])
def test_every_type_and_shape_has_one(dtype, shape):
    """Of the values, however they lie in memory, and of each of them."""
    values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    digest = weights_sha256({"a": values})
    assert len(digest) == 64
    if values.ndim == 2:
        assert weights_sha256({"a": values.t().contiguous().t()}) == digest
        apart = torch.stack([values, values], dim=-1)[..., 0]
        assert not apart.numel() or not apart.is_contiguous()
        assert weights_sha256({"a": apart}) == digest
    zeros, ones = (weights_sha256({"a": make(shape, dtype=dtype)}) for make in (torch.zeros, torch.ones))
    assert (zeros == ones) == (values.numel() == 0)


def test_a_lazy_conjugate_is_hashed_as_its_values():
    values = torch.tensor([1 + 2j, 3 - 4j])
    assert weights_sha256({"a": values.conj()}) == weights_sha256({"a": values.conj().resolve_conj()})
    assert weights_sha256({"a": values.conj().imag}) == weights_sha256({"a": torch.tensor([-2.0, 4.0])})
