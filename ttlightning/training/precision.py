"""Which ``trainer.precision`` a tensor format can honour; every other one is refused in one line.

32-true and 64-true: weights and chain in that type. bf16-mixed and 16-mixed: Lightning's autocast computes the feature
map in half precision, the format computes in float32. Weights in half precision (bf16-true, 16-true) are refused: the
scores would be computed in float32 anyway, steps below half a unit in the last place of a weight are lost, and no
format became more accurate by more than chance (scripts/precision.py).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lightning.pytorch import Trainer

from ttlightning.errors import UserError

PRECISIONS: Final = ("32-true", "64-true", "bf16-mixed", "16-mixed")


@contextmanager
def honoured(trainer: Trainer, asked: Any) -> Iterator[None]:
    """Inside, ``trainer`` is initialized with the precision ``asked``.

    Raises:
        UserError: if the formats cannot compute in it, or Lightning would replace it by another one.
    """
    if str(asked).startswith("transformer-engine"):
        _refuse(asked)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision='16-mixed'.* but AMP with fp16 is not supported on CPU")
        yield
    if str(asked) in ("16", "16-mixed") and trainer.precision != "16-mixed":
        raise UserError(
            f"trainer.precision is {asked}, which Lightning has on GPUs alone: on a CPU use bf16-mixed or 32-true"
        )
    if trainer.precision not in PRECISIONS:
        _refuse(trainer.precision)


def _refuse(precision: Any) -> None:
    raise UserError(
        f"trainer.precision is {precision}, tensor formats compute in float32 or float64: use "
        "32-true, bf16-mixed or 64-true"
    )
