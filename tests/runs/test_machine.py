"""What is recorded of a machine's arithmetic."""

import pytest
import torch

from ttlightning.formats.kernels import native
from ttlightning.runs import machine
from ttlightning.runs.machine import cpu_name, instructions, numerics, source_sha256, variables

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu smep sse sse4_1 avx avx2 avx512f fma amx_tile md_clear\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd fphp sve crc32 i8mm bf16\n"


def told(monkeypatch, tmp_path, text):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / "cpuinfo" if path == "/proc/cpuinfo" else None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (X86, "amx_tile avx avx2 avx512f fma sse sse4_1"),
        (X86 + X86.replace("amx_tile", "f16c"), "amx_tile avx avx2 avx512f f16c fma sse sse4_1"),
        (ARM, "asimd bf16 fphp i8mm sve"),
        ("", None),
    ],
)
def test_instructions_of_a_processor(monkeypatch, tmp_path, text, found):
    told(monkeypatch, tmp_path, text)
    assert instructions() == found
    assert cpu_name()


def test_every_cause_has_its_entry():
    found = numerics()
    assert set(found) == {"instructions", "torch_capability", "blas", "torch_build_sha256", "compiler", "variables"}
    assert found["torch_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["blas"]


@pytest.mark.parametrize(
    "name", ["MKL_CBWR", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "TORCH_BLAS_PREFER_CUBLASLT"]
)
def test_variables_that_change_numerics(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    assert name not in variables()
    monkeypatch.setenv(name, "value")
    assert variables()[name] == "value"


def test_variables_set_by_lightning_are_not_recorded(monkeypatch):
    """It is there once a run has begun, and not where `rerun` looks before."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert "CUBLAS_WORKSPACE_CONFIG" not in variables()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert variables()["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_the_compiler_is_recorded(monkeypatch):
    monkeypatch.setattr(native, "compiler_description", lambda: "clang -O3: 17")
    assert numerics()["compiler"] == "clang -O3: 17"


def test_the_hash_of_the_code_depends_on_its_content(monkeypatch, tmp_path):
    """A file that git does not know, or one that was changed where it is installed, is another code."""
    package = tmp_path / "ttlightning"
    (package / "formats").mkdir(parents=True)
    (package / "formats" / "a.py").write_text("x = 1")
    monkeypatch.setattr(machine, "__file__", str(package / "runs" / "machine.py"))
    before = source_sha256()
    (package / "formats" / "a.pyc").write_text("cache")
    assert source_sha256() == before
    (package / "b.c").write_text("")
    added = source_sha256()
    (package / "formats" / "a.py").write_text("x = 2")
    assert len({before, added, source_sha256()}) == 3
