"""The rank check: when it looks, what it finds, where it writes it."""

import itertools
import json
import math

import pytest
import torch
from conftest import quiet_trainer
from experiments import Rows
from tensor_ring import PlainTensorRing

from ttlightning import (
    CanonicalPolyadic,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    PatchDataModule,
    SharedHierarchicalTucker,
    TensorTrain,
    UserError,
)
from ttlightning.data.pixels import scaled
from ttlightning.rank.measures import (
    WIDTH_ERRORS,
    certify,
    describe_certificate,
    measure_ranks,
    measure_staircase,
    measure_width,
    summarize_ranks,
)
from ttlightning.rank.verifier.verification import read_certificate, verify
from ttlightning.rank.width.images import mixed_scores, side_by_side, without_common
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.run import Run
from ttlightning.training.callbacks import RankCheck
from ttlightning.training.classifier import Classifier


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(1, 3, [0, 7, 14, 21]), (2, 3, [0, 14, 21]), (0, 2, [0, 14])]
)
def test_epochs_of_the_rank_check(tmp_path, write_mnist, every, epochs, expected):
    data = PatchDataModule("mnist", write_mnist(tmp_path), batch_size=32)
    check, rows = RankCheck(every_n_epochs=every, sketch_size=4), Rows()
    trainer = quiet_trainer(tmp_path, max_epochs=epochs, logger=rows, callbacks=[check], limit_val_batches=0)
    trainer.run = Run(tmp_path)
    model = Classifier(16, 49, 10)
    trainer.fit(model, datamodule=data)
    assert sorted({step for step, name in rows.values if name.startswith("rank/")}) == expected
    lines = [json.loads(line) for line in (tmp_path / "rank" / "checks.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == expected
    assert check.latest.pop("statement") == read_certificate(tmp_path / "rank" / "certificate.json")["statement"]
    assert check.latest == lines[-1] | {"certificate": "rank/certificate.json"}
    assert ["certified" in line for line in lines] == [False, *[True] * (len(lines) - 1)]
    assert all(min(line["smallest_singular_value"]) > 0 for line in lines)
    content = read_certificate(tmp_path / "rank" / "certificate.json")
    assert content["cp_rank_at_least"] == lines[-1]["certified"]
    state = {name: p.detach() for name, p in model.format.named_parameters()}
    verify(content, state, weights_sha256(model.state_dict()))


@pytest.mark.parametrize("sites", [4, 5, 16, 17, 784])
@pytest.mark.parametrize(("kind", "published"), [(TensorTrain, 2), (EqualCoreTensorTrain, 1)])
def test_measured_ranks(kind, published, sites):
    """n = 3, r = 2: K18 gives 2^(d//2), A24 gives 1; odd d like even d, long chains like short ones."""
    torch.manual_seed(0)
    format = kind(sites, 3, 4, rank=2, initialization="gaussian", gain=2.0)
    found = measure_ranks(format, sketch_size=8, bond_tolerance=1e-6, seed=0)
    pairs = sites // 2
    assert found["bound"] == (3**pairs if sites % 2 else 2 * 3 ** (pairs - 1))
    assert found["bound_published"] == published**pairs
    assert found["sketch_rank"] == [min(8, found["bound"])] * 4
    assert all(1 <= value <= 8 for value in found["stable_rank"])
    assert all(0 <= value <= math.log(8) for value in found["entropy"])
    assert found["tt_rank"] == [2] * (sites - 1)
    summary = summarize_ranks(found)
    assert all(math.isfinite(value) for value in summary.values())
    assert summary["rank/tt_rank_min"] == summary["rank/tt_rank_max"] == 2


@pytest.mark.parametrize(
    ("kind", "sites", "mode_size", "rank", "size", "expected"),
    [
        (CanonicalPolyadic, 16, 17, 16, 64, {"certified": [16] * 3, "certified_size": 64, "cp_rank_at_most": 16}),
        (CanonicalPolyadic, 5, 3, 40, 100, {"certified": [4] * 3, "certified_size": 4, "cp_rank_at_most": 40}),
        (CanonicalPolyadic, 5, 1, 2, 64, {"certified": [1] * 3, "certified_size": 1, "cp_rank_at_most": 2}),
        (HierarchicalTucker, 16, 17, 16, 100, {"certified": [64] * 3, "certified_size": 64}),
        (SharedHierarchicalTucker, 4, 5, 3, 64, {"certified": [9] * 3, "certified_size": 16}),
        (SharedHierarchicalTucker, 2, 4, 9, 3, {"certified": [2] * 3, "certified_size": 2}),
    ],
)
def test_what_is_certified_of_other_formats(kind, sites, mode_size, rank, size, expected):
    """As many scores as there are, in a power of two: of units their number, of trees r of every pair of sites."""
    torch.manual_seed(0)
    format = kind(sites, mode_size, 3, rank, initialization="gaussian")
    certificate = certify(format, size)
    verify(certificate, {name: p.detach() for name, p in format.named_parameters()}, "", sites)
    assert describe_certificate(certificate, format) == expected
    found = measure_ranks(format, 8, 1e-6, 0) | expected
    summary = summarize_ranks(found)
    assert summary["rank/certified"] == min(expected["certified"])
    tree = kind is not CanonicalPolyadic
    generic = min(mode_size, rank) ** (sites // 2) if tree else min(rank, mode_size ** (sites // 2))
    assert summary["rank/bound"] == generic
    assert summary["rank/bound"] >= summary["rank/certified"]


def test_a_low_rank_is_seen():
    """TT-rank 1 is a product of vectors: every matricization of every class has rank 1."""
    format = TensorTrain(6, 3, 2, rank=1, initialization="gaussian")
    found = measure_ranks(format, sketch_size=8, bond_tolerance=1e-6, seed=0)
    assert found["sketch_rank"] == [1, 1]
    assert found["stable_rank"] == pytest.approx([1, 1])
    assert found["entropy"] == pytest.approx([0, 0], abs=1e-9)


def test_checking_changes_nothing():
    format = EqualCoreTensorTrain(16, 5, 10, rank=4)
    before = {name: value.clone() for name, value in format.state_dict().items()}
    generator = torch.get_rng_state()
    assert measure_ranks(format, 8, 1e-6, 0) == measure_ranks(format, 8, 1e-6, 0)
    assert all(torch.equal(before[name], value) for name, value in format.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(("option", "value"), [("every_n_epochs", -1), ("sketch_size", 0)])
def test_options_out_of_range(option, value):
    with pytest.raises(UserError, match=f"rank_check.{option} is {value}"):
        RankCheck(**{option: value})


def test_weights_that_are_not_numbers_have_no_certificate():
    """A run that diverged goes on to say so; the check does not stop it."""
    format = TensorTrain(6, 3, 2, 2)
    assert certify(format, 4) is not None
    assert len(measure_staircase(format)["condition"]) == 2
    with torch.no_grad():
        format.interior[0, 0, 0, 0] = float("nan")
    assert certify(format, 4) is None
    assert measure_staircase(format) == {}
    for kind in (CanonicalPolyadic, HierarchicalTucker):
        format = kind(4, 3, 2, 2)
        assert certify(format, 4) is not None
        with torch.no_grad():
            next(format.parameters())[0, 0, 0] = float("inf")
        assert certify(format, 4) is None


def test_the_smallest_singular_value_counts_independent_slices():
    """n > r^2: the other singular values of T are 0 by the sizes alone."""
    torch.manual_seed(0)
    for mode_size, rank in ((5, 2), (3, 2), (2, 3)):
        found = measure_staircase(TensorTrain(6, mode_size, 2, rank, initialization="gaussian"))
        assert min(found["smallest_singular_value"]) > 1e-6


def test_ranks_that_no_float_can_hold():
    """n = 17, d = 784: ten to the power of 482, in the checks as an integer and in the loggers as infinity."""
    found = measure_ranks(TensorTrain(784, 17, 2, 4), 4, 1e-6, 0)
    assert found["bound"] == 4 * 16**391
    assert summarize_ranks(found)["rank/bound"] == math.inf


@pytest.mark.parametrize("validation", [0, 0.25])
def test_the_width_is_that_of_the_validation_images(tmp_path, write_mnist, validation):
    """Recorded before and after training, for the images that are held out, and nothing of the training changes."""
    records, weights = {}, {}
    for images in (0, 12):
        data = PatchDataModule("mnist", write_mnist(tmp_path / str(images)), batch_size=32, validation=validation)
        check, rows = RankCheck(every_n_epochs=1, sketch_size=4, mixed_images=images), Rows()
        trainer = quiet_trainer(tmp_path, max_epochs=1, logger=rows, callbacks=[check])
        model = Classifier(16, 49, 10)
        trainer.fit(model, datamodule=data)
        records[images], weights[images] = check.latest, weights_sha256(model.state_dict())
    assert weights[0] == weights[12]
    assert "width_10_percent" not in records[0]
    assert {step for step, name in rows.values if name == "rank/width_1_percent"} == {0, trainer.global_step}
    held = next(iter(data.val_dataloader())).patches if validation else scaled(data.patching(data.images.train.images))
    patches = data.some_patches(12)
    assert all(any(torch.equal(patch, other) for other in held) for patch in patches)
    assert len(patches.unique(dim=0)) == 12
    scores = mixed_scores(model.format, model.embed(patches).detach(), proven=False)
    values = torch.linalg.svdvals(side_by_side(without_common(scores))[0])
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt() / values.norm()
    for name, eps in WIDTH_ERRORS.items():
        assert records[12][name] == int((tails > eps).sum())


@pytest.mark.parametrize(
    "kind", [CanonicalPolyadic, TensorTrain, EqualCoreTensorTrain, HierarchicalTucker, PlainTensorRing]
)
def test_the_width_is_seen_in_single_scores(kind):
    """Also for a format that has scores and nothing else."""
    torch.manual_seed(0)
    format = kind(4, 3, 5).double()
    features = torch.randn(6, 4, 3, dtype=torch.float64)
    table = torch.zeros(6, 6, 5, dtype=torch.float64)
    for i, j in itertools.product(range(6), repeat=2):
        mixed = torch.stack([features[i if site % 2 == 0 else j, site] for site in range(4)])
        table[i, j] = format(mixed.unsqueeze(0))[0]
    matrix = (table - table.mean(2, keepdim=True)).flatten(1).detach()
    squares = torch.linalg.svdvals(matrix).square() / matrix.square().sum()
    expected = {name: sum(float(squares[k:].sum()) > eps**2 for k in range(6)) for name, eps in WIDTH_ERRORS.items()}
    assert measure_width(format, features) == {"width_images": 6} | expected
    assert 1 <= expected["width_10_percent"] <= expected["width_1_percent"] <= 6
    features[0, 0, 0] = math.nan
    assert measure_width(format, features) == {}


def test_the_width_of_a_shallow_network_is_its_own():
    """CP of r units: r products fit it, and the scores do not fill fewer."""
    torch.manual_seed(0)
    format = CanonicalPolyadic(6, 4, 3, rank=5, initialization="gaussian")
    found = measure_width(format, torch.randn(40, 6, 4))
    assert found["width_1_percent"] == 5
    with pytest.raises(UserError, match=r"rank_check\.mixed_images is -1, it must be at least 0"):
        RankCheck(mixed_images=-1)
