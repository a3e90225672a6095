"""Processor, libraries, variables and compiler: beside the code, they decide how a floating-point sum is rounded."""

import fnmatch
import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any, Final

import torch

from ttlightning.formats.kernels import native

INSTRUCTIONS: Final = re.compile(r"(sse|ssse|avx|fma|f16c|amx|asimd|neon|sve|sme(?!p)|bf16|i8mm|fphp)\w*")
"""Processor flags of instruction sets for floating-point arithmetic."""

VARIABLES: Final = (
    "MKL_*", "OPENBLAS_*", "BLIS_*", "ATEN_CPU_CAPABILITY", "DNNL_*", "ONEDNN_*", "CUBLAS_*", "CUBLASLT_*", "CUDNN_*",
    "NVIDIA_TF32_OVERRIDE", "TTLIGHTNING_KERNEL", "TORCH_*", "LD_PRELOAD",
)  # fmt: skip
"""Environment variables that choose between ways to compute the same."""

LIGHTNINGS: Final = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Variables that Lightning sets for every deterministic run; before a run they are not set yet."""


def numerics() -> dict[str, Any]:
    """Everything of this machine that can change how a sum is rounded; None for what does not exist."""
    return {
        "instructions": instructions(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        **torch_build(),
        "compiler": native.compiler_description(),
        "variables": variables(),
    }


def source_sha256() -> str:
    """Hash of the source files of this package, committed or not, in a checkout or installed."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(file for ending in ("py", "c", "h") for file in package.rglob(f"*.{ending}")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def cpu_name() -> str:
    """Name of the processor."""
    names = _proc_entries("model name")
    return names[0] if names else platform.processor() or platform.machine()


def instructions() -> str | None:
    """The processor's instruction sets for floats, such as ``avx avx2 f16c fma``; None where the system hides them."""
    flags = {flag for line in (*_proc_entries("flags"), *_proc_entries("Features")) for flag in line.split()}
    return " ".join(sorted(flag for flag in flags if INSTRUCTIONS.fullmatch(flag))) or None


def _proc_entries(entry: str) -> list[str]:
    """The different values of ``entry`` in Linux's list of processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return []
    named = (line.partition(":") for line in lines)
    return list(dict.fromkeys(value.strip() for name, _, value in named if name.strip() == entry))


def torch_build() -> dict[str, str]:
    """Torch's libraries for linear algebra, and a hash of how it was built: two builds may have one version number."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    kept = [line for line in lines if not line.startswith("CPU capability usage")]  # this one a variable can change
    libraries = [line for line in kept if re.search(r"Math Kernel|MKL-DNN|OneDNN|OpenBLAS|Accelerate", line)]
    return {"blas": "; ".join(libraries), "torch_build_sha256": hashlib.sha256("\n".join(kept).encode()).hexdigest()}


def variables() -> dict[str, str]:
    """Those of ``VARIABLES`` that are set, as they are."""
    named = {name for name in os.environ for pattern in VARIABLES if fnmatch.fnmatchcase(name, pattern)}
    return {name: os.environ[name] for name in sorted(named) if os.environ[name] != LIGHTNINGS.get(name)}
