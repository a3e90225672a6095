"""Groups of runs that differ only in the seed: means, confidence intervals, and tests of the differences.

Of the n seeds of a group, with mean m and standard deviation s of an accuracy, the 95 % interval is
m -+ t s / sqrt(n), t the 0.975 quantile of Student's distribution with n - 1 degrees of freedom. Two groups are
compared by the paired t-test on the seeds that both have, all pairs of groups together corrected by Holm's method
(S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979).
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from ttlightning.comparison.records import ACCURACIES, Record, settings, value_text
from ttlightning.errors import UserError

CONFIDENCE: Final = 0.95
SAME: Final = 1e-9
"""Accuracies nearer than this are equal: the test sets have far fewer images than its inverse."""


class Estimate(NamedTuple):
    """Mean over seeds and half of its 95 % interval; a single seed has no interval."""

    mean: float
    interval: float | None
    seeds: int


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    settings: Mapping[str, Any]
    records: Sequence[Record]
    """runs that count"""
    repeats: Sequence[Record]
    """runs with the seed and the weights of another run, which do not count"""
    notes: Sequence[str]
    """remarks for the reader of the table"""
    label: str = ""
    """a name that no other group of the comparison has"""

    @property
    def name(self) -> str:
        return ", ".join(dict.fromkeys(record.experiment for record in self.records))

    @property
    def seeds(self) -> list[int]:
        return sorted({record.seed for record in self.records})

    @property
    def dataset_sha256(self) -> str:
        return self.records[0].dataset_sha256

    @property
    def parameters(self) -> int:
        return self.records[0].parameters

    @property
    def certified(self) -> int | None:
        """The smallest certified bound of the runs; None if a run has no certificate."""
        known = [record.certified for record in self.records if record.certified is not None]
        return min(known) if len(known) == len(self.records) else None

    def width(self, name: str) -> float | None:
        """The mean over the runs; None if a run has none, or they were seen on different numbers of images."""
        known = [record.widths[name] for record in self.records if name in record.widths]
        if len(known) < len(self.records) or len({images for _, images in known}) > 1:
            return None
        return statistics.fmean(units for units, _ in known)

    @property
    def seconds(self) -> float | None:
        known = [record.seconds for record in self.records if record.seconds is not None]
        return statistics.median(known) if known else None

    def values(self, metric: str) -> dict[int, float]:
        """Seed: value of the metric, the mean if a seed has several runs."""
        known = [(record.seed, record.metrics[metric]) for record in self.records if metric in record.metrics]
        return {seed: statistics.fmean(values) for seed, values in _by_key(known).items()}

    def estimate(self, metric: str) -> Estimate | None:
        values = list(self.values(metric).values())
        return estimate(values) if values else None

    def curve(self, metric: str) -> dict[int, tuple[float, float, float]]:
        """Epoch: smallest, mean and largest value of the runs."""
        points = _by_key(point for record in self.records for point in record.curves.get(metric, {}).items())
        return {epoch: (min(values), statistics.fmean(values), max(values)) for epoch, values in points.items()}


def _by_key(pairs: Iterable[tuple[int, float]]) -> dict[int, list[float]]:
    """Values of each key, in the order of the keys."""
    values: dict[int, list[float]] = {}
    for key, value in sorted(pairs, key=lambda pair: pair[0]):
        values.setdefault(key, []).append(value)
    return values


class Pair(NamedTuple):
    """Test accuracy of the first group less that of the second, over the seeds that both have."""

    first: str
    second: str
    seeds: int
    difference: Estimate | None = None
    p_value: float | None = None
    corrected: float | None = None
    """p-value corrected by Holm's method, over all pairs with a p-value"""
    reason: str = ""
    """why there is no p-value"""


@dataclass(frozen=True)
class Comparison:
    """The content of table, page and figure."""

    groups: Sequence[Group]
    keys: Sequence[str]
    """settings that tell the groups apart"""
    differing: Sequence[str]
    """settings that are not the same in all groups"""
    pairs: Sequence[Pair]
    datasets: Mapping[str, str]
    """SHA-256 of the data: their name"""

    @cached_property
    def best(self) -> set[str]:
        """Labels of the groups with the highest mean test accuracy on their data; a single group is not the best."""
        labels: set[str] = set()
        for sha256 in self.datasets:
            groups = [group for group in self.groups if group.dataset_sha256 == sha256]
            means = {group.label: known.mean for group in groups if (known := group.estimate("test/acc"))}
            if len(means) > 1:
                labels |= {label for label, mean in means.items() if mean >= max(means.values()) - SAME}
        return labels


def compare(records: Sequence[Record], mixed_data: bool = False) -> Comparison:
    """Group the runs, find the settings that differ, and test the groups against each other.

    Raises:
        UserError: if the runs are of different data and ``mixed_data`` is false.
    """
    datasets = {record.dataset_sha256: record.dataset for record in records}
    if len(datasets) > 1 and not mixed_data:
        example = {record.dataset_sha256: record.place for record in reversed(records)}
        names = "; ".join(f"{name} (SHA-256 {sha[:12]}, as in {example[sha]})" for sha, name in datasets.items())
        raise UserError(f"the runs are of {len(datasets)} data sets: {names}; --mixed_data shows them side by side")
    groups = group_records(records)
    every = [group.settings for group in groups]
    return Comparison(groups, telling(every), differing(every), compare_pairs(groups), datasets)


def group_records(records: Sequence[Record]) -> list[Group]:
    """Groups in the order of their first runs; the name of the data is the setting ``data``."""
    contents: dict[str, set[str]] = {}
    for record in records:
        contents.setdefault(record.dataset, set()).add(record.dataset_sha256)
    members: dict[frozenset[tuple[str, Any]], tuple[dict[str, Any], list[Record]]] = {}
    for record in records:
        data = record.dataset + (f" {record.dataset_sha256[:8]}" if len(contents[record.dataset]) > 1 else "")
        data += f", fallback for {record.fallback_for}" if record.fallback_for else ""
        content = {"data": data, **settings(record.config)}
        members.setdefault(frozenset(content.items()), (content, []))[1].append(record)
    return _labelled([Group(content, *_counted(runs)) for content, runs in members.values()])


def _counted(records: Sequence[Record]) -> tuple[list[Record], list[Record], list[str]]:
    """The runs that count, the runs that repeat another one, and the notes of a group."""
    counted: dict[tuple[int, str], Record] = {}
    repeats, notes = [], []
    for record in records:
        first = counted.setdefault((record.seed, record.weights_sha256), record)
        if first is not record:
            repeats.append(record)
            notes.append(f"{record.place} came to the same weights as {first.place}, seed {record.seed}: counted once")
    kept = list(counted.values())
    for seed in sorted({record.seed for record in kept}):
        places = [record.place for record in kept if record.seed == seed]
        if len(places) > 1:
            notes.append(f"seed {seed} came to different weights in {', '.join(places)}: their mean counts as one seed")
    if record.fallback_for:
        notes.append(f"trained on {record.dataset}, the fallback for {record.fallback_for}")
    for metric in ACCURACIES:
        have, seeds = {r.seed for r in kept if metric in r.metrics}, {r.seed for r in kept}
        if have and have != seeds:
            notes.append(f"{metric} is of seed {', '.join(map(str, sorted(have)))} only")
    return kept, repeats, notes


def _labelled(groups: Sequence[Group]) -> list[Group]:
    """The groups with unique labels: the experiment's name, and settings if several groups have that name."""
    done = []
    for group in groups:
        others = [other.settings for other in groups if other.name == group.name]
        parts = [
            f"{key} {value_text(group.settings[key])}" if key in group.settings else f"no {key}"
            for key in telling(others)
        ]
        done.append(replace(group, label=f"{group.name} ({', '.join(parts)})" if parts else group.name))
    return done


def differing(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that are missing in some settings or have different values, in their order."""
    keys = dict.fromkeys(key for settings in every for key in settings)
    return [key for key in keys if len({(key in settings, settings.get(key)) for settings in every}) > 1]


def telling(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Differing keys with at least two values; all differing keys if those leave two settings equal.

    A key with one value belongs to a class that only some settings have, such as an optimizer's momentum.
    """
    keys = differing(every)
    shown = [key for key in keys if len({settings[key] for settings in every if key in settings}) > 1]
    seen = {tuple(settings.get(key, ...) for key in shown) for settings in every}
    return shown if len(seen) == len(every) else keys


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and half of its interval of one or more values."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Estimate(mean, None, count)
    from scipy.special import stdtrit  # a comparison of single runs needs no SciPy

    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Estimate(mean, quantile * statistics.stdev(values) / math.sqrt(count), count)


def paired_p_value(differences: Sequence[float]) -> float:
    """p = 2 F(-|t|), t = mean / (s / sqrt(n)), F Student's distribution function with n - 1 degrees of freedom."""
    from scipy.special import stdtr

    count = len(differences)
    t = statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(count))
    return float(2 * stdtr(count - 1, -abs(t)))


def compare_pairs(groups: Sequence[Group]) -> list[Pair]:
    """Paired tests of all pairs of groups, with corrected p-values."""
    pairs = [_pair(first, second) for first, second in itertools.combinations(groups, 2)]
    corrected = iter(holm([pair.p_value for pair in pairs if pair.p_value is not None]))
    return [pair if pair.p_value is None else pair._replace(corrected=next(corrected)) for pair in pairs]


def _pair(first: Group, second: Group) -> Pair:
    one, two = first.values("test/acc"), second.values("test/acc")
    common = sorted(one.keys() & two.keys())
    pair = Pair(first.label, second.label, len(common))
    if first.dataset_sha256 != second.dataset_sha256:
        return pair._replace(reason="different data")
    if len(common) < 2:
        return pair._replace(reason="too few common seeds")
    differences = [one[seed] - two[seed] for seed in common]
    pair = pair._replace(difference=estimate(differences))
    if max(differences) - min(differences) < SAME:  # the statistic would be a quotient by zero, or by rounding
        return pair._replace(reason="the same difference at every seed: no spread to test against")
    return pair._replace(p_value=paired_p_value(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values: the k-th smallest of m times m - k + 1, at least the one before, at most 1."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = largest
    return corrected
