"""Certificates with absorbed ends (n < r): what is true holds, and consistent lies about the ends are rejected."""

import json

import pytest
import torch
from kinds import CHAINS, random_format, restore, weights_of
from standalone import judged
from test_agreement import REAL

from ttlightning.rank.certificates.staircase import checkpoint_certificate
from ttlightning.rank.statements import checkpoint_statement
from ttlightning.rank.verifier.claims import Rejected, sylvester
from ttlightning.rank.verifier.verification import verify
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.safetensors import write_safetensors

SIZES = [(3, 5, 6), (3, 7, 7), (2, 5, 11)]
"""n < r, d"""


class Case:
    """Random weights of a chain, their certificate, and what both verifiers say."""

    def __init__(self, folder, kind, sizes, dtype=torch.float32, damage=None):
        (n, r, self.sites), self.folder = sizes, folder
        self.weights = weights_of(random_format(kind, self.sites, n, r), dtype)
        if damage is not None:
            damage(self.weights)
        state = {f"format.{name}": value for name, value in self.weights.items()}
        self.sha256 = weights_sha256(state)
        write_safetensors(folder / "c.safetensors", state, {})
        self.content = checkpoint_certificate(restore(self.weights, self.sites), self.sha256)

    def holds(self, content):
        try:
            verify(content, self.weights, self.sha256, self.sites)
        except Rejected:
            said = 1
        else:
            said = 0
        (self.folder / "c.json").write_text(json.dumps(content))
        code, line = judged(self.folder / "c.json")
        assert (code == 0) == (said == 0), line
        return code == 0

    def consistent(self, **changes):
        """With other ranks or ends, and the bounds and the statement that follow from them."""
        content = json.loads(json.dumps(self.content | changes))
        size, r = len(content["slices"][0]), content["rank"]
        classes = range(len(content["cp_rank_at_least"]))
        bounds = [
            [sylvester(size, r, self.sites, each, y, content["kept"]) for y in classes] for each in content["ranks"]
        ]
        best = [max(each) for each in zip(*bounds, strict=True)]
        return content | {"cp_rank_at_least": best, "statement": checkpoint_statement(best, self.sites)}

    def with_ranks(self, **ranks):
        return [each | ranks for each in self.content["ranks"]]


def nothing(weights):
    pass


def first_of_rank_one(weights):
    weights["first"][:] = weights["first"][:1].clone()


def no_class(weights):
    weights["last"][..., 0] = 0


def dead_slice(weights):
    weights["interior"][:, 0] = 0


@pytest.mark.parametrize("damage", [nothing, first_of_rank_one, no_class, dead_slice])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", CHAINS)
def test_what_is_certified_holds(kind, sizes, damage, tmp_path):
    for number, dtype in enumerate(REAL):
        (folder := tmp_path / str(number)).mkdir()
        case = Case(folder, kind, sizes, dtype, damage)
        assert case.holds(case.content)
        bounds = case.content["cp_rank_at_least"]
        if damage is nothing:
            assert case.content["absorbed"] > 0
            assert min(bounds) > 0
        if damage is no_class:
            assert bounds[0] == 0 < bounds[1]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", CHAINS)
def test_lies_about_the_ends_are_rejected(kind, sizes, tmp_path):
    case, (n, r, _) = Case(tmp_path, kind, sizes), sizes
    absorbed, (e, f), ranks = case.content["absorbed"], case.content["kept"], case.content["ranks"][0]
    assert case.consistent() == case.content
    lies = [
        case.consistent(ranks=case.with_ranks(first=ranks["first"] - 1)),
        case.consistent(ranks=case.with_ranks(last=[ranks["last"][0] - 1, ranks["last"][1]])),
        case.consistent(kept=[1, 1], absorbed=0),
        case.consistent(kept=[e, f], absorbed=absorbed + 1),
    ]
    if ranks["pairs"]:
        lies.append(case.consistent(ranks=case.with_ranks(pairs=[r * n - 1] * len(ranks["pairs"]))))
    rows = n ** (absorbed + 1)
    for kept in {(1, 1), (n, n), (n, 1)} - {(e, f)}:
        most = {"first": min(rows, kept[0] * r), "last": [min(rows, kept[1] * r)] * 2}
        other = case.consistent(kept=list(kept), ranks=case.with_ranks(**most))
        assert case.holds(other), "full ranks, for other slices kept: weaker, and as true"
        assert other["cp_rank_at_least"] <= case.content["cp_rank_at_least"]
        if most != {name: ranks[name] for name in most}:
            lies.append(case.consistent(kept=list(kept)))
    assert [lie for lie in lies if case.holds(lie)] == []


@pytest.mark.parametrize("kind", CHAINS)
def test_ends_alone_hold_too_where_they_are_counted(kind, tmp_path):
    """A weaker certificate than the best one is as true: n = 4, r = 6, the ends alone, d = 6."""
    case = Case(tmp_path, kind, (4, 6, 6))
    pairs = [24] * 2
    ranks = [{"pairs": pairs, "state": None, "first": 4, "last": [4, 4]}] * 2
    content = case.consistent(absorbed=0, kept=[1, 1], ranks=ranks)
    assert content["cp_rank_at_least"] == [2 * 16] * 2
    assert case.holds(content)
    assert case.content["cp_rank_at_least"][0] > 32


@pytest.mark.parametrize("damage", [first_of_rank_one, no_class, dead_slice])
def test_a_certificate_of_whole_weights_is_rejected_for_damaged_ones(damage, tmp_path):
    whole = Case(tmp_path, CHAINS[0], (3, 7, 7)).content
    (tmp_path / "c.safetensors").unlink()
    case = Case(tmp_path, CHAINS[0], (3, 7, 7), damage=damage)
    assert not case.holds(whole | {"weights_sha256": case.sha256})


@pytest.mark.parametrize(
    "changes",
    [
        {"absorbed": -1},
        {"absorbed": 2},
        {"absorbed": 10**9},
        {"absorbed": True},
        {"kept": [0, 1]},
        {"kept": [4, 1]},
        {"kept": [1]},
        {"kept": [1, 1.0]},
        {"kept": "11"},
        {"sites": 100_000, "absorbed": 24_999},
    ],
)
def test_ends_out_of_range_are_rejected_before_any_work(changes, tmp_path):
    case = Case(tmp_path, CHAINS[1], (3, 7, 7))
    assert not case.holds(case.content | changes)
