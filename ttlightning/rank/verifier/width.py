r"""Counting a certificate of width again, in ball arithmetic of 128 bits.

The scores S of all classes are computed from the weights and the patches as K x (K C) balls. Let Q be any matrix near
the eigenvectors of H = S S^T, and D = Q^T H Q. By Ostrowski, the k-th eigenvalue of D is that of H times a number of at
most 1 + |Q^T Q - 1|. The eigenvalues of D are near its diagonal d. So, with the diagonal sorted,

    sum_{k > R} s_k^2 >= (sum of the K - R least d_k - sqrt(K) |D - diag(d)|_F) / (1 + |Q^T Q - 1|_F)

and a sum of R products errs by more than eps if this exceeds eps^2 |S|_F^2. Q comes from a library's eigenvectors of
the balls' midpoints. It need not be right: a bad Q makes the bound weaker, not wrong.
"""

import hashlib
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any

import numpy as np
from flint import arb, arb_mat, ctx

from ttlightning.rank.limits import unfit, width_excess
from ttlightning.rank.verifier.claims import Rejected

if TYPE_CHECKING:
    from torch import Tensor

BITS = 128
Balls = list[arb]


def verify_width(content: dict[str, Any], weights: dict[str, "Tensor"], sha256: str, patches: bytes) -> None:
    """Raise ``Rejected`` unless counting confirms the claims, whose form has been checked.

    Args:
        content: a certificate of the kind width.
        weights: all parameters of the network, by name.
        sha256: hash of them.
        patches: numbers of the K images' patches, float32, little-endian.
    """
    if content["weights_sha256"] != sha256:
        raise Rejected("it is for other weights than those of the checkpoint")
    if content["images_sha256"] != hashlib.sha256(patches).hexdigest():
        raise Rejected("it is for other images than those beside it")
    images, sites, n, r = (content[name] for name in ("images", "sites", "mode_size", "rank"))
    classes, patch_dim = _check_sizes(content, weights)
    if len(patches) != 4 * images * sites * patch_dim:
        raise Rejected(f"the images are not {images} of {sites} patches of {patch_dim} numbers")
    if reason := unfit(weights) or width_excess(weights, images, sites, n, r, classes):
        raise Rejected(reason)
    pixels = np.frombuffer(patches, "<f4").reshape(images * sites, patch_dim)
    if not np.isfinite(pixels).all():
        raise Rejected("a pixel is infinite or not a number")
    before, ctx.prec = ctx.prec, BITS
    try:
        features = _features(content, weights, pixels)
        scores = _scores(weights, features, images, sites, classes)
        total, tails = _tails(_together(scores, images))
        for permille, units in zip(content["permille"], content["units_at_least"], strict=True):
            if units and not tails[units - 1] > total * permille**2 / 10**6:
                raise Rejected(f"{units} hidden units for {permille / 10:g} % are more than counting gives")
    finally:
        ctx.prec = before


def _check_sizes(content: dict[str, Any], weights: dict[str, "Tensor"]) -> tuple[int, int]:
    """Classes and numbers of a patch; ``Rejected`` unless the parameters are those of a known network."""
    n, r, d = (content[name] for name in ("mode_size", "rank", "sites"))
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    end = next((shapes[f"format.{name}"] for name in ("last", "weights", "root") if f"format.{name}" in shapes), ())
    linear = shapes.get("features.linear.weight", ())
    if not end or len(linear) != 2:
        raise Rejected("the checkpoint holds no network that this program knows")
    learned, classes, patch_dim = n - int(content["constant"]), end[-1], linear[1]
    of_features: dict[str, tuple[int, ...]]
    of_features = {"features.linear.weight": (learned, linear[1]), "features.linear.bias": (learned,)}
    hidden = shapes.get("features.hidden.weight", ())
    if len(hidden) == 2:
        patch_dim = hidden[1]
        of_features |= {"features.hidden.weight": (linear[1], patch_dim), "features.hidden.bias": (linear[1],)}
    widths = [d >> level for level in range(1, d.bit_length() - 1)]
    possible: list[dict[str, tuple[int, ...]]] = [
        {"first": (n, r), "interior": (cores, n, r, r), "last": (n, r, classes)} for cores in {min(1, d - 2), d - 2}
    ]
    possible.append({"factors": (d, n, r), "weights": (r, classes)})
    for most in (1, d) if d & (d - 1) == 0 else ():
        nodes = {f"nodes.{level}": (min(most, width), r, r, r) for level, width in enumerate(widths)}
        possible.append({"leaves": (min(most, d), n, r), **nodes, "root": (r, r, classes)})
    prefixed = [of_features | {f"format.{name}": shape for name, shape in each.items()} for each in possible]
    if shapes not in prefixed:
        raise Rejected(f"a network of {d} sites, mode size {n} and rank {r} is not what the checkpoint holds")
    return classes, patch_dim


def _features(content: dict[str, Any], weights: dict[str, "Tensor"], pixels: np.ndarray) -> list[Balls]:
    """The features of every patch, image by image."""
    mean = arb(content["pixel_mean"])
    found = [[arb(float(x)) - mean for x in row] for row in pixels]
    for layer in ("hidden", "linear") if "features.hidden.weight" in weights else ("linear",):
        turned = _matrix(weights[f"features.{layer}.weight"]).transpose()
        bias = [arb(float(b)) for b in weights[f"features.{layer}.bias"]]
        sums = [[z + b for z, b in zip(row, bias, strict=True)] for row in (arb_mat(found) * turned).tolist()]
        found = [[_activated(z, content["activation"]) for z in row] for row in sums]
    return [[*row, arb(1)] for row in found] if content["constant"] else found


def _activated(z: arb, activation: str) -> arb:
    """sigma(z), as torch defines it; gelu is z times the normal distribution function."""
    if activation == "relu":
        return z.nonnegative_part()
    if activation == "gelu":
        return z * (-z / arb(2).sqrt()).erfc() / 2
    if activation == "sigmoid":
        return (1 + (z / 2).tanh()) / 2
    if activation == "softplus":
        return z.exp().log1p()
    if activation == "tanh":
        return z.tanh()
    return z.cos() if activation == "cos" else z


def _scores(
    weights: dict[str, "Tensor"], features: list[Balls], images: int, sites: int, classes: int
) -> list[list[Balls]]:
    """[i][j][y]: the score of class y at the odd sites of image i and the even sites of image j."""
    of_site = [features[site::sites] for site in range(sites)]  # rows are images
    if "format.first" in weights:
        return _chain(weights, of_site, images)
    if "format.factors" in weights:
        return _sum(weights, of_site, images)
    return _tree(weights, of_site, images, classes)


def _chain(weights: dict[str, "Tensor"], of_site: list[list[Balls]], images: int) -> list[list[Balls]]:
    interior = weights["format.interior"]
    cores = [weights["format.first"].unsqueeze(1)]
    cores += [interior[min(k, len(interior) - 1)] for k in range(len(of_site) - 2)]
    cores.append(weights["format.last"])
    sums = [arb_mat(f) * _matrix(c.reshape(len(c), -1)) for f, c in zip(of_site, cores, strict=True)]
    matrices = [
        [arb_mat(core.shape[1], core.shape[2], row) for row in total.tolist()]
        for total, core in zip(sums, cores, strict=True)
    ]
    scores = []
    for i in range(images):
        row = []
        for j in range(images):
            state = matrices[0][i]
            for site in range(1, len(matrices)):
                state = state * matrices[site][j if site % 2 else i]
            row.append(state.entries())
        scores.append(row)
    return scores


def _sum(weights: dict[str, "Tensor"], of_site: list[list[Balls]], images: int) -> list[list[Balls]]:
    units = [(arb_mat(f) * _matrix(a)).tolist() for f, a in zip(of_site, weights["format.factors"], strict=True)]
    odd, even = (_products(units[parity::2]) for parity in (0, 1))
    of_classes = [[arb(float(c)) for c in row] for row in weights["format.weights"].T]
    tables = [
        (arb_mat([[u * c for u, c in zip(row, cs, strict=True)] for row in odd]) * arb_mat(even).transpose()).tolist()
        for cs in of_classes
    ]
    return [[[table[i][j] for table in tables] for j in range(images)] for i in range(images)]


def _products(tables: list[list[Balls]]) -> list[Balls]:
    products = tables[0]
    for table in tables[1:]:
        products = [[a * b for a, b in zip(*rows, strict=True)] for rows in zip(products, table, strict=True)]
    return products


def _tree(weights: dict[str, "Tensor"], of_site: list[list[Balls]], images: int, classes: int) -> list[list[Balls]]:
    leaves, root = weights["format.leaves"], weights["format.root"]
    levels = [weights[name] for name in sorted(weights, key=lambda n: (len(n), n)) if ".nodes." in name]
    levels.append(root.unsqueeze(0))
    bottom = [(arb_mat(f) * _matrix(leaves[min(site, len(leaves) - 1)])).tolist() for site, f in enumerate(of_site)]
    cores = [[_matrix(core.reshape(len(core), -1)) for core in level] for level in levels]
    scores = []
    for i in range(images):
        row = []
        for j in range(images):
            parts = [bottom[site][j if site % 2 else i] for site in range(len(bottom))]
            for level, flat in zip(levels, cores, strict=True):
                pairs = zip(parts[0::2], parts[1::2], strict=True)
                up = level.shape[3]
                parts = [_node(left, right, flat[min(k, len(flat) - 1)], up) for k, (left, right) in enumerate(pairs)]
            row.append(parts[0])
        scores.append(row)
    return scores


def _node(left: Balls, right: Balls, core: arb_mat, up: int) -> Balls:
    half = arb_mat(1, len(left), left) * core
    return (arb_mat(1, len(right), right) * arb_mat(len(right), up, half.entries())).entries()


def _together(scores: list[list[Balls]], images: int) -> arb_mat:
    """K x (K C), minus the mean over the classes."""
    rows = []
    for of_image in scores:
        row = []
        for each in of_image:
            mean = sum(each, arb(0)) / len(each)
            row += [score - mean for score in each]
        rows.append(row)
    return arb_mat(rows)


def _tails(matrix: arb_mat) -> tuple[arb, Balls]:
    """The sum of all squares, and lower bounds on that of all but the R largest, R = 0, ..., K."""
    gram = matrix * matrix.transpose()
    size = gram.nrows()
    total = gram.trace()
    middle = np.array([[float((x / total).mid()) for x in row] for row in gram.tolist()])
    _, vectors = np.linalg.eigh(middle) if np.isfinite(middle).all() else (None, np.eye(size))
    q = arb_mat(vectors.tolist())
    turned = (q.transpose() * gram * q).tolist()
    diagonal = sorted((turned[k][k].lower() for k in range(size)), key=cmp_to_key(_order))
    others = sum((turned[a][b] ** 2 for a in range(size) for b in range(size) if a != b), arb(0))
    skew = (q.transpose() * q).tolist()
    defect = sum(((skew[a][b] - (a == b)) ** 2 for a in range(size) for b in range(size)), arb(0)).sqrt()
    lost = (arb(size) * others).sqrt()
    sums = [arb(0)]
    for value in diagonal:
        sums.append(sums[-1] + value)
    return total, [(each - lost) / (1 + defect) for each in reversed(sums)]


def _order(a: arb, b: arb) -> int:
    """Of two numbers without error."""
    return int(a > b) - int(a < b)


def _matrix(values: "Tensor") -> arb_mat:
    """A matrix of floats without error."""
    return arb_mat(values.double().tolist())
