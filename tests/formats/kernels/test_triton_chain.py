"""The GPU kernels, in Triton's interpreter on a CPU: what they compute, not how fast, and not on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ttlightning.errors import UserError
from ttlightning.formats.kernels import dispatch, torch_chain
from ttlightning.formats.kernels.native import kernel_name

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.nightly
def test_triton_kernels_agree_with_torch():
    """Scores, exponents and gradients: all numbers of sites, with rescalings, for sizes whose products overflow."""
    cases = Path(__file__).with_name("triton_cases.py")
    surroundings = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(cases)], env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 45
    for case in found:
        limit = 1e-13 if case["double"] else 1e-5
        assert max(case["differences"].values()) < limit, case
        assert case["same exponents"], case
        assert case["same bits"], case


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("block", [1, 32, 128])
def test_triton_kernels_compile_for_an_h100(double, block, monkeypatch, tmp_path):
    """To the machine code of an H100: what the interpreter lets pass, the compiler may not."""
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from ttlightning.formats.kernels import triton_chain

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    layout, sizes = triton_chain.layout(torch.float64 if double else torch.float32), triton_chain.sizes(block)
    assert layout["INTEGER"] == (tl.int64 if double else tl.int32)
    numbers = "*fp64" if double else "*fp32"
    there = {"matrices": numbers, "states": numbers, "scales": numbers, "exponent": "*i32"}
    back = {"matrices": numbers, "adjoints": numbers, "scales": numbers}
    for kernel, arrays, constants in (
        (triton_chain._states_kernel, there, sizes | layout),
        (triton_chain._adjoints_kernel, back, sizes),
    ):
        integers = dict.fromkeys(("batch", "interior", "rank"), "i32")
        signature = arrays | integers | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature, constexprs=constants)
        assert len(compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]) > 1000


def test_which_chain_a_gpu_gets(monkeypatch):
    """torch's, unless it is asked for another, and for ranks whose matrices a program can hold."""
    features = SimpleNamespace(is_cuda=True)
    monkeypatch.delenv("TTLIGHTNING_KERNEL", raising=False)
    assert dispatch.torch_or_triton(features, 16) is torch_chain.TorchChain
    monkeypatch.setenv("TTLIGHTNING_KERNEL", "triton")
    assert dispatch.torch_or_triton(features, 128).__name__ == "TritonChain"
    assert dispatch.torch_or_triton(features, 129) is torch_chain.TorchChain
    assert dispatch.torch_or_triton(SimpleNamespace(is_cuda=False), 16) is torch_chain.TorchChain
    assert kernel_name().endswith("triton on GPUs")
    monkeypatch.setitem(sys.modules, "ttlightning.formats.kernels.triton_chain", None)
    with pytest.raises(UserError, match="the package triton is not installed"):
        dispatch.torch_or_triton(features, 16)
