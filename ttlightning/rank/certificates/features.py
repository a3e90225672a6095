r"""From tensors to functions of images: the features of a trained network are linearly independent.

    f_i(x) = sigma(a_i . x + b_i),    and perhaps f_n(x) = 1

- gelu, sigmoid, tanh, softplus, cos: independent on every open set of patches if the a_i are not 0, and no two are
  equal or opposite. On a line x = t u the |a_i . u| are then different for almost every u, and so are the widths of
  the Gaussians in gelu'', the nearest poles of sigmoid, tanh and softplus', and the frequencies of cos. The functions
  are analytic, so a sum that is 0 on an open set is 0 everywhere.
- relu: independent on all real patches if the a_i are not 0 and the hyperplanes a_i . x + b_i = 0 are different. Only
  f_i is not differentiable at a point of its own hyperplane.

Independent functions have n patches at which their n x n matrix of values is regular. With one of these patches at
every site, the matricization of the scores has the rank of the matricization of the weight tensor, and each unit of a
shallow network, whatever its features, adds 1 to it at most. The patches must be a free choice at every site, so they
must not overlap.
"""

from fractions import Fraction
from typing import TYPE_CHECKING, Final

from ttlightning.errors import UserError
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.limits import refuse, unfit
from ttlightning.rank.statements import ANALYTIC, features_statement

if TYPE_CHECKING:
    from torch import Tensor

RELU: Final = "relu"


def with_features(
    certificate: Certificate, activation: str, constant: bool, weight: "Tensor", bias: "Tensor"
) -> Certificate:
    """The certificate of a network with the claim that its features are linearly independent.

    Args:
        certificate: of kind checkpoint or sampled.
        activation: sigma, by its name.
        constant: whether the last feature is 1.
        weight: the a_i, (n - constant, patch_dim).
        bias: the b_i, (n - constant).

    Raises:
        UserError: if the criterion does not hold, or there is none for this activation, or no bound says anything.
    """
    refuse(unfit({"of the features": weight, "of the features' bias": bias}))
    if max(certificate["cp_rank_at_least"]) < 2:
        raise UserError("the bounds are below 2, which says nothing about functions either: leave --features out")
    rows, shifts = weight.double().tolist(), bias.double().tolist()
    if activation in ANALYTIC:
        kinds = {max(tuple(row), tuple(-x for x in row)) for row in rows}
    elif activation == RELU:
        kinds = {_hyperplane([*row, shift]) for row, shift in zip(rows, shifts, strict=True) if any(row)}
    else:
        raise UserError(f"there is no criterion for the independence of features {activation}: leave --features out")
    if not all(map(any, rows)) or len(kinds) < len(rows):
        raise UserError("a feature is constant, or two have the same a or hyperplane: leave --features out")
    claim = {"activation": activation, "constant": constant}
    statement = certificate["statement"] + features_statement(certificate["mode_size"], activation, constant)
    return certificate | {"statement": statement, "features": claim}


def _hyperplane(row: list[float]) -> tuple[Fraction, ...]:
    """The coefficients divided by the first that is not 0: the same for the same hyperplane."""
    first = Fraction(next(x for x in row if x))
    return tuple(Fraction(x) / first for x in row)
