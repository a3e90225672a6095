"""Table and figure of scripts/width_against_error.py."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ttlightning.rank.bounds import in_figures

LINES = {"equal": "-", "different": "--"}
Found = dict[str, Any]


def table(found: Found) -> str:
    """A line for every network, then one for every imitator."""
    points, size = found["points"].values(), found["settings"]["images"]
    lines = [
        f"Units of a shallow network that stays within an error (root mean square, relative) of the scores on {size} x "
        f"{size} mixed test images, at least. B, C: effective rank of the class tensors, the smallest and the largest, "
        "plain and weighted by the data.",
        "",
        "| data | cores | r | state | test % | exact | 50 % | 30 % | 10 % | 3 % | 1 % | B | C | weights | data SHA-256 |",
        "|---" * 15 + "|",
    ]
    for p in points:
        exact = "" if p["certified"] is None else in_figures(p["certified"])
        widths = " | ".join(str(width) for width in p["width"].values())
        lines.append(
            f"| {p['data']} | {p['cores']} | {p['rank']} | {p['state']} | {100 * p['test_acc']:.2f} | {exact} | {widths} "
            f"| {_span(p['effective_rank'])} | {_span(p['effective_rank_on_data'])} | {p['weights_sha256'][:12]} | "
            f"{p['data_sha256'][:12]} |"
        )
    lines += [
        "",
        "Imitators: error of a shallow network of R units that was trained on the scores of mixed or of real training "
        "images, measured on test images; beside it the bound for mixed images.",
        "",
        "| data | cores | r | state | R | bound, mixed | trained on mixed: mixed | real | test % | trained on real: mixed | "
        "real | test % | weights |",
        "|---" * 13 + "|",
    ]
    for p in points:
        for units, kinds in p["imitators"].items():
            cells = [
                f"{k['error_on_mixed']:.3f} | {k['error_on_real']:.3f} | {100 * k['test_acc']:.2f}"
                for k in (kinds["mixed"], kinds["real"])
            ]
            hashes = ", ".join(k["weights_sha256"][:12] for k in kinds.values())
            lines.append(
                f"| {p['data']} | {p['cores']} | {p['rank']} | {p['state']} | {units} | {bound_at(p, int(units)):.3f} | "
                f"{' | '.join(cells)} | {hashes} |"
            )
    return "\n".join(lines) + "\n"


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
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)


def _span(values: list[float] | None) -> str:
    if values is None:
        return ""
    low, high = min(values), max(values)
    return f"{low:.3g} to {high:.3g}"
