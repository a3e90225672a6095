"""Table and figure of scripts/width_against_error.py."""

import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from ttlightning.rank.bounds import in_figures

LINES = {"equal": "-", "different": "--"}
Found = dict[str, Any]


def table(found: Found) -> str:
    """A line for every network, then one for every imitator."""
    points, size = list(found["points"].values()), found["settings"]["images"]
    first = [
        "data", "cores", "r", "state", "test %", "exact", "50 %", "30 %", "10 %", "3 %", "1 %", "B", "C", "weights",
        "data SHA-256", "bound", "rounding",
    ]  # fmt: skip
    second = [
        "data", "cores", "r", "state", "R", "bound, mixed", "mixed: error on mixed", "on real", "test %",
        "real: error on mixed", "on real", "test %", "weights",
    ]  # fmt: skip
    return (
        f"At least so many units has a shallow network that stays within an error (root mean square, relative) of the "
        f"scores on {size} x {size} mixed test images; in brackets what is proven, where that is less. Rounding: the "
        "largest relative error that float64 can have made in the scores. B, C: effective ranks, the smallest and the "
        "largest of the class tensors and that of all classes side by side; B plain, C weighted by the data.\n\n"
        + _markdown(first, [_network(p) for p in points])
        + "\n\n"
        + _does_accuracy_follow(points)
        + "\n\nImitators: shallow networks of R units that were trained on the scores of mixed, and of real, training "
        "images. Errors on test images; the bound is that for the mixed ones.\n\n"
        + _markdown(second, [_imitator(p, *each) for p in points for each in p["imitators"].items()])
        + "\n"
    )


def _markdown(titles: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, ["---"] * len(titles), *rows])


def _network(p: Found) -> list[str]:
    exact = "" if p["certified"] is None else in_figures(p["certified"])
    ranks = [_span(p[name]) for name in ("effective_rank", "effective_rank_on_data")]
    last = [p["weights_sha256"][:12], p["data_sha256"][:12], "proven" if p["proven"] else "measured"]
    widths = [_width(p, error) for error in p["measured_width"]]
    last.append("" if p["rounding"] is None else f"{p['rounding']:.1e}")
    return [*_name(p), f"{100 * p['test_acc']:.2f}", exact, *widths, *ranks, *last]


def _width(p: Found, error: str) -> str:
    """Measured, and what of it is proven."""
    measured, proven = p["measured_width"][error], p["proven_width"]
    if proven is None or proven[error] == measured:
        return str(measured)
    return f"{measured} ({proven[error]})"


def _imitator(p: Found, units: str, kinds: Found) -> list[str]:
    both = [kinds["mixed"], kinds["real"]]
    cells = [
        text
        for k in both
        for text in (f"{k['error_on_mixed']:.3f}", f"{k['error_on_real']:.3f}", f"{100 * k['test_acc']:.2f}")
    ]
    hashes = ", ".join(k["weights_sha256"][:12] for k in both)
    return [*_name(p), units, f"{bound_at(p, int(units)):.3f}", *cells, hashes]


def _name(p: Found) -> list[str]:
    return [p["data"], p["cores"], str(p["rank"]), p["state"]]


def _does_accuracy_follow(points: list[Found]) -> str:
    """Rank correlations of test accuracy with the width and with the ranks, after one epoch or more."""
    lines = []
    for name in dict.fromkeys(p["data"] for p in points):
        mine = [p for p in points if p["data"] == name and p["certified"] is not None]
        accuracy = [p["test_acc"] for p in mine]
        quantities = {
            "the width at 10 %": [p["width"]["0.1"] for p in mine],
            "the TT-rank, on which the generic rank depends": [p["rank"] for p in mine],
            "the certified rank": [p["certified"] for p in mine],
        }
        found = {what: rank_correlation(accuracy, values) for what, values in quantities.items()}
        known = ", ".join(f"{value:.2f} with {what}" for what, value in found.items() if not math.isnan(value))
        alike = "".join(f" All have the same value of {what}." for what, v in found.items() if math.isnan(v))
        lines.append(
            f"{name}: over {len(mine)} networks after one epoch or more, Spearman's correlation of test accuracy is "
            f"{known}.{alike}  "
        )
    return "\n".join(lines)


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Pearson's correlation of the ranks, equal values with their mean rank; nan if a list has one value only."""
    ranks = []
    for values in (first, second):
        ordered = sorted(values)
        ranks.append([ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values])
    if min(len(set(r)) for r in ranks) < 2:
        return math.nan
    return statistics.correlation(*ranks)


def bound_at(point: Found, units: int) -> float:
    """The least error of any network of so many units; 0 beyond K."""
    return point["bound"][units] if units < len(point["bound"]) else 0.0


def draw(found: Found, path: Path) -> None:
    """Bound and reached error against R; the bound over training; width against accuracy."""
    points, last = list(found["points"].values()), f"epoch {found['settings']['epochs']}"
    names = list(dict.fromkeys(p["data"] for p in points))
    figure, panels = plt.subplots(len(names), 3, figsize=(13, 3.9 * len(names)), squeeze=False, layout="constrained")
    for (left, middle, right), name in zip(panels, names, strict=True):
        mine = [p for p in points if p["data"] == name]
        distilled = [p for p in mine if p["imitators"]] or [p for p in mine if p["state"] == last]
        _bounds_and_reached(left, distilled, last)
        largest = max(p["rank"] for p in distilled)
        _over_training(middle, [p for p in mine if p["rank"] == largest and p["state"].startswith("epoch")])
        _width_and_accuracy(right, [p for p in mine if p["state"].startswith("epoch")])
        left.set_title(f"{name}: bound (lines) and reached (marks)", fontsize=10, loc="left")
        middle.set_title(f"{name}: the bound over training, r = {largest}", fontsize=10, loc="left")
        right.set_title(f"{name}: all ranks and epochs", fontsize=10, loc="left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(panel: plt.Axes, point: Found, **style: Any) -> None:
    bound = [e for e in point["bound"][1:] if e > 0]
    panel.plot(range(1, 1 + len(bound)), bound, linestyle=LINES[point["cores"]], **style)
    panel.set(xscale="log", yscale="log", ylim=(3e-3, 1.3), xlabel="units R", ylabel="relative error, mixed images")
    panel.grid(alpha=0.3)


def _bounds_and_reached(panel: plt.Axes, points: list[Found], last: str) -> None:
    for point in points:
        colour = {last: "C0", "epoch 0": "C2"}.get(point["state"], "C1")
        label = f"{point['state']}, {point['cores']} cores, r = {point['rank']}"
        _curve(panel, point, color=colour, label=label, lw=1.5)
        reached = {int(u): kinds["mixed"]["error_on_mixed"] for u, kinds in point["imitators"].items()}
        mark = "o" if point["cores"] == "equal" else "s"
        panel.plot(list(reached), list(reached.values()), mark, color=colour, ms=5, mfc="none")
    panel.legend(fontsize=7)


def _over_training(panel: plt.Axes, points: list[Found]) -> None:
    epochs = sorted({int(p["state"].removeprefix("epoch ")) for p in points})
    for point in sorted(points, key=lambda p: int(p["state"].removeprefix("epoch "))):
        shade = epochs.index(int(point["state"].removeprefix("epoch "))) / max(1, len(epochs) - 1)
        label = point["state"] if point["cores"] == "equal" else None
        _curve(panel, point, color=plt.get_cmap("viridis_r")(0.1 + 0.9 * shade), label=label, lw=1.3)
    panel.legend(fontsize=7, title="solid: equal cores", title_fontsize=7)


def _width_and_accuracy(panel: plt.Axes, points: list[Found]) -> None:
    ranks = sorted({p["rank"] for p in points})
    for rank in ranks:
        for cores in LINES:
            mine = [p for p in points if (p["rank"], p["cores"]) == (rank, cores)]
            mine.sort(key=lambda p: int(p["state"].removeprefix("epoch ")))
            errors, widths = [100 * (1 - p["test_acc"]) for p in mine], [p["width"]["0.1"] for p in mine]
            label = f"r = {rank}" if cores == "equal" else None
            panel.plot(widths, errors, LINES[cores] + "o", color=f"C{ranks.index(rank)}", ms=3, lw=1, label=label)
    panel.set(xscale="log", yscale="log", xlabel="units for an error of 10 %, at least", ylabel="test error, %")
    for axis in (panel.xaxis, panel.yaxis):  # whole numbers, few of them
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)


def _span(values: list[float] | None) -> str:
    if values is None:
        return ""
    *classes, together = values
    return f"{min(classes):.3g} to {max(classes):.3g}; {together:.3g}"
