"""Laws on the device that computes: on the GPU in ``make gpu``, else on the CPU, where they are laws as well."""

import os

import pytest
import torch
from conftest import contents
from kinds import CHAINS, FORMATS, inputs_of, made
from oracles import dense, dense_scores
from torch.func import functional_call, grad, vmap

import ttlightning
from ttlightning.formats.kernels import dispatch

DEVICE = torch.device(os.environ.get("TTLIGHTNING_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
ON_DEVICE = f"--trainer.accelerator={'gpu' if DEVICE.type == 'cuda' else DEVICE.type}"
KERNELS = ["torch", *(["triton"] if DEVICE.type == "cuda" else [])]
LIMITS = {torch.float32: 2e-5, torch.float64: 1e-12}

pytestmark = pytest.mark.gpu


def on_device(kind, dtype, sites=4):
    """The format and features of ``made``, and the same on the device."""
    format, features = made(kind, sites, torch.float64)
    there = made(kind, sites, torch.float64)[0].to(DEVICE, dtype)
    return format, features, there, features.detach().to(DEVICE, dtype).requires_grad_()


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    return float((found.cpu().double() - expected).abs().max()) <= LIMITS[dtype] * float(expected.abs().max())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("kind", FORMATS)
def test_scores_and_gradients_are_those_of_the_dense_oracle(kind, dtype, kernel, monkeypatch):
    """Twice, to the same bits."""
    if DEVICE.type == "cuda":
        monkeypatch.setenv("TTLIGHTNING_KERNEL", kernel)
    format, features, there, inputs = on_device(kind, dtype)
    expected = dense_scores(dense(format), features)
    slopes = torch.autograd.grad(expected.square().sum(), inputs_of(format, features))
    found, again = (there(inputs), there(inputs))
    assert found.device.type == DEVICE.type
    assert found.dtype == dtype
    assert close(found.detach(), expected.detach(), dtype)
    once, twice = (torch.autograd.grad(s.square().sum(), inputs_of(there, inputs)) for s in (found, again))
    for slope, first, second in zip(slopes, once, twice, strict=True):
        assert close(first, slope, dtype)
        assert torch.equal(first, second)
    assert torch.equal(found, again)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", CHAINS)
def test_long_chains_stay_in_range(kind, kernel, monkeypatch):
    """784 sites whose scores leave float32: mantissa and exponent are those of float64 on the CPU."""
    if DEVICE.type == "cuda":
        monkeypatch.setenv("TTLIGHTNING_KERNEL", kernel)
    format, features, there, inputs = on_device(kind, torch.float32, sites=784)
    (mantissa, exponent), (ours, its) = format.scaled_scores(features), there.scaled_scores(inputs)
    ours = ours.cpu().double() * torch.exp2((its.cpu() - exponent).double()).unsqueeze(1)
    assert int(exponent.abs().max()) > 128
    mantissa = mantissa.detach()
    torch.testing.assert_close(ours.detach(), mantissa, rtol=1e-3, atol=1e-3 * float(mantissa.abs().max()))


@pytest.mark.parametrize("kind", FORMATS)
def test_transforms_are_the_oracle(kind):
    """Gradients of each sample by ``vmap`` of ``grad`` are those of a loop on the CPU."""
    format, features, there, inputs = on_device(kind, torch.float64)
    state = {name: value.detach() for name, value in there.named_parameters()}

    def loss(parameters, sample):
        return functional_call(there, parameters, (sample.unsqueeze(0),)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(state, inputs.detach())
    for index, sample in enumerate(features.detach()):
        score = dense_scores(dense(format), sample.unsqueeze(0)).square().sum()
        slopes = torch.autograd.grad(score, list(format.parameters()))
        for (name, _), slope in zip(format.named_parameters(), slopes, strict=True):
            assert close(found[name][index], slope, torch.float64), name


@pytest.mark.parametrize("kind", FORMATS)
def test_autocast_computes_in_the_type_of_the_parameters(kind):
    _, _, there, inputs = on_device(kind, torch.float32)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        inside = there(inputs)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, there(inputs), rtol=1e-6, atol=1e-6)


def test_a_run_on_the_device_repeats_and_goes_on_to_the_same_bits(command, rerun_in_this_process):
    """``rerun``, and a run that was killed and resumed; its network scores the same on the device and on the CPU."""
    words = ("fit", "--config=debug.yaml", ON_DEVICE, "--trainer.max_epochs=2", "--figures=false")
    command(*words)
    assert "verdict     bitwise identical" in command("rerun", "runs/debug/0").stdout
    command.killed(6, *words, "--last_checkpoint.every_n_steps=2")
    command("fit", "--ckpt_path=runs/debug/2")
    whole, resumed = (contents(command.folder / f"runs/debug/{n}")["result"] for n in (0, 2))
    assert whole["weights_sha256"] == resumed["weights_sha256"]
    assert command.result("debug/0")["metrics"] == command.result("debug/2")["metrics"]

    network = ttlightning.load(command.folder / "runs/debug/0")
    images = torch.randint(0, 256, (5, *network.image_shape), dtype=torch.uint8)
    here = network.score_images(images)
    there = network.to(DEVICE).score_images(images)
    assert there.device.type == DEVICE.type
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


def test_the_kernel_that_is_asked_for_computes(monkeypatch):
    """Not another one: the chain of each path is the one that ``TTLIGHTNING_KERNEL`` names."""
    features = torch.zeros(1, 4, 2, device=DEVICE)
    for kernel in KERNELS:
        monkeypatch.setenv("TTLIGHTNING_KERNEL", kernel)
        assert dispatch.torch_or_triton(features, 3).__name__ == f"{kernel.title()}Chain"
