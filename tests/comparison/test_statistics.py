"""Groups, and their numbers against numbers by hand and scipy's."""

import math
import random
import warnings

import pytest
from comparisons import config, record, table_of
from scipy import stats

from ttlightning.comparison.records import settings, value_text
from ttlightning.comparison.statistics import compare, estimate, holm, paired_p_value, telling
from ttlightning.comparison.tables import csv_table, markdown
from ttlightning.errors import UserError


def test_intervals_by_hand():
    """t(0.975, 2) = 4.302653, t(0.975, 1) = 12.706205."""
    found = estimate([0.90, 0.92, 0.97])
    assert found.mean == pytest.approx(0.93)
    assert found.interval == pytest.approx(4.302653 * math.sqrt(0.0013) / math.sqrt(3), rel=1e-6)
    assert estimate([0.5, 0.7]).interval == pytest.approx(12.706205 * 0.1, rel=1e-6)
    assert estimate([0.5]) == (0.5, None, 1)
    assert estimate([0.5, 0.5]) == (0.5, 0.0, 2)


@pytest.mark.parametrize("count", [2, 3, 5, 12, 40])
def test_interval_and_p_value_are_those_of_scipy_stats(count):
    """To 1e-12: p-values from 0.5 down to 1e-30 and less."""
    generator = random.Random(count)
    for shift in (0.0, 0.01, 0.1, 1.0):
        differences = [shift + generator.gauss(0, 0.01) for _ in range(count)]
        known = stats.ttest_1samp(differences, 0)
        low, high = known.confidence_interval(0.95)
        assert paired_p_value(differences) == pytest.approx(known.pvalue, rel=1e-12, abs=0)
        assert estimate(differences).interval == pytest.approx((high - low) / 2, rel=1e-12, abs=0)


def test_paired_test_is_scipys():
    a, b, c = [0.90, 0.92, 0.97, 0.91], [0.85, 0.91, 0.93, 0.90], [0.70, 0.75, 0.60]
    records = [record(value, seed) for seed, value in enumerate(a)]
    records += [record(value, seed, rank=5) for seed, value in enumerate(b)]
    records += [record(value, seed, rank=6) for seed, value in enumerate(c)]
    first, second, third = compare(records).pairs
    known = stats.ttest_rel(a, b)
    assert first.p_value == pytest.approx(known.pvalue, rel=1e-12)
    low, high = known.confidence_interval(0.95)
    assert first.difference.mean - first.difference.interval == pytest.approx(low)
    assert first.difference.mean + first.difference.interval == pytest.approx(high)
    assert (first.first, first.second, first.seeds) == ("eq (format.rank 4)", "eq (format.rank 5)", 4)
    assert second.seeds == third.seeds == 3
    assert second.p_value == pytest.approx(stats.ttest_rel(a[:3], c).pvalue, rel=1e-12)
    assert [pair.corrected for pair in (first, second, third)] == holm([p.p_value for p in (first, second, third)])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("a", "b", "why", "mean"),
    [
        ([0.9, 0.8], [0.9, 0.8], "no spread", 0),
        ([0.3, 0.1, 0.7], [0.2, 0.0, 0.6], "no spread", 0.1),  # the differences differ in their last bits
        ([0.9], [0.8], "too few common seeds", None),
    ],
)
def test_pairs_without_a_p_value_say_why(a, b, why, mean):
    records = [record(v, s) for s, v in enumerate(a)] + [record(v, s, rank=5) for s, v in enumerate(b)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(records)
    [pair] = found.pairs
    assert why in pair.reason
    assert pair.p_value is pair.corrected is None
    assert (pair.difference and pair.difference.mean) == (mean if mean is None else pytest.approx(mean))
    assert why in markdown(found)
    assert "nan" not in markdown(found)


def test_what_is_not_the_experiment_does_not_part_runs():
    runs = [record(0.8), record(0.9, 1, experiment="other", devices=4, logger=True)]
    runs[1].config["data"] |= {"root": "elsewhere"}
    runs[1].config.update(wandb={"mode": "online"}, rank_check={"every_n_epochs": 1}, figures=False)
    [group] = compare(runs).groups
    assert (group.name, group.seeds, group.estimate("test/acc").mean) == ("eq, other", [0, 1], pytest.approx(0.85))
    for key, value in (("max_epochs", 3), ("precision", "bf16-mixed")):
        assert len(compare([record(), record(0.8, 1, **{key: value})]).groups) == 2
    begun = record(0.8, 1)
    begun.config["ckpt_path"] = "runs/eq/0/checkpoints/last.ckpt"
    assert compare([record(), begun]).keys == ["ckpt_path"]


def test_short_names_of_settings():
    found = settings(
        config() | {"model": {"format": {"class_path": "a.B", "init_args": {"rank": 4}}, "betas": [1, [2]]}}
    )
    assert found == {
        "format": "a.B", "format.rank": 4, "betas": (1, (2,)), "trainer.max_epochs": 2, "data.patch_size": 7,
        "ckpt_path": None, "label_smoothing": 0.0, "data.longest": None,
    }  # fmt: skip
    values = ("ttlightning.TensorTrain", "a.b", 1e-8, 4.0, True, None, (0.9, 0.999), "1.5")
    texts = ["TensorTrain", "a.b", "1e-08", "4", "true", "none", "[0.9, 0.999]", "1.5"]
    assert [value_text(value) for value in values] == texts


def test_settings_that_come_with_a_class_are_not_shown():
    adam, sgd = (
        {"optimizer": "Adam", "optimizer.lr": 0.1, "optimizer.eps": 1},
        {"optimizer": "SGD", "optimizer.lr": 0.1},
    )
    assert telling([adam, sgd]) == ["optimizer"]
    assert telling([adam, {**adam, "optimizer.eps": 2}, sgd]) == ["optimizer", "optimizer.eps"]
    assert telling([sgd, {**sgd, "new": 1}]) == ["new"]  # nothing else tells them apart
    assert telling([adam]) == []


def test_the_same_run_again_counts_once_and_another_of_its_seed_is_marked():
    runs = [record(0.8, 0, "a"), record(0.8, 0, "b"), record(0.6, 0, "c"), record(0.9, 1, "d")]
    found = compare(runs)
    [group] = found.groups
    assert [r.place for r in group.records] == ["a", "c", "d"]
    assert [r.place for r in group.repeats] == ["b"]
    assert group.values("test/acc") == {0: pytest.approx(0.7), 1: 0.9}
    assert group.estimate("test/acc").seeds == 2
    text = markdown(found)
    assert "b came to the same weights as a, seed 0: counted once" in text
    assert "seed 0 came to different weights in a, c: their mean counts as one seed" in text
    assert table_of(text)[0]["name"] == "eq ¹ ²"


def test_one_seed_has_no_interval():
    found = compare([record(0.9), record(None, rank=5, certified=None)])
    first, second = table_of(markdown(found))
    assert (first["test %"], second["test %"], second["CP-rank ≥"]) == ("90.00", "\N{EN DASH}", "\N{EN DASH}")
    assert "nan" not in markdown(found).lower() + csv_table(found).lower()


def test_the_best_is_bold_and_the_smallest_certificate_stands():
    runs = [record(0.8, 0), record(0.9, 1, certified=7), record(0.95, 0, rank=5), record(0.95, 0, rank=6, place="z")]
    found = compare(runs)
    lines = table_of(markdown(found))
    assert [line["test %"].startswith("**") for line in lines] == [False, True, True]
    assert [line["CP-rank ≥"] for line in lines] == ["7", "9", "9"]
    assert compare(runs[:2]).best == set()


def test_different_data_are_refused_or_marked():
    runs = [record(0.8), record(0.9, 1, data="kmnist", data_sha="e", place="k")]
    with pytest.raises(
        UserError, match=r"of 2 data sets: mnist \(SHA-256 dddddddddddd, as in run/0\); kmnist .*as in k"
    ):
        compare(runs)
    found = compare(runs, mixed_data=True)
    assert [line["data"] for line in table_of(markdown(found))] == ["mnist", "kmnist"]
    assert found.pairs[0].reason == "different data"
    assert found.best == set()
    same_name = compare([record(0.8), record(0.9, 1, data_sha="e")], mixed_data=True)
    assert [line["data"] for line in table_of(markdown(same_name))] == ["mnist dddddddd", "mnist eeeeeeee"]


def test_fallback_data_are_marked():
    runs = [record(0.8, data="mnist5k", fallback="mnist"), record(0.9, data="mnist5k", dataset="mnist5k")]
    text = markdown(compare(runs))
    assert [line["data"] for line in table_of(text)] == ["mnist5k, fallback for mnist", "mnist5k"]
    assert "¹ trained on mnist5k, the fallback for mnist" in text
    assert "the fallback for mnist" in markdown(compare(runs[:1]))
