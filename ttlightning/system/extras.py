"""Extras: which packages training, export and benchmarks need beside the package's own dependencies."""

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from ttlightning.errors import MissingExtra, UserError

EXTRA_OF: Final = (
    dict.fromkeys(
        ("lightning", "torchmetrics", "torchvision", "PIL", "wandb", "mlxtend", "sklearn", "scipy", "jinja2",
         "matplotlib"),
        "train",
    )
    | dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export")
    | {"wandb_workspaces": "report"}
    | dict.fromkeys(("tensorkrowch", "jax", "pytorch_optimizer"), "bench")
    | {"submitit": "slurm"}
)  # fmt: skip
"""Package by the name of its import: the extra of pyproject.toml that installs it."""


@contextlib.contextmanager
def needed_by(user: str) -> Iterator[None]:
    """Inside, the import of a missing package of an extra raises ``MissingExtra``, which names ``user`` and the extra.

    Other packages that are missing, such as one of the user, raise ``ModuleNotFoundError`` as ever. A torchvision that
    was built for another torch raises ``UserError``.
    """
    try:
        yield
    except ModuleNotFoundError as fault:
        package = (fault.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        install = f"pip install 'ttlightning[{EXTRA_OF[package]}]'"
        raise MissingExtra(f"{user} needs the package {package}, which is not installed: {install}") from fault
    except RuntimeError as fault:
        if "operator torchvision::" not in str(fault):
            raise
        builds = " and ".join(f"{name} {version(name)}" for name in ("torch", "torchvision"))
        raise UserError(
            f"{user} needs torch and torchvision of one build, and {builds} are not (one for the CPU, one for CUDA): "
            "uv pip install --reinstall --torch-backend cpu torch torchvision, or pip install both from one index"
        ) from fault
