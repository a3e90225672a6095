"""The report and the workspace of ``wandb_report.py``: what stands where."""

from typing import Any, Final

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

TITLE: Final = "Tensor-train networks, side by side"
INTRODUCTION: Final = """\
Runs of one experiment share a group and differ in the seed. Lines are means over the seeds of a group, with the range.
**CP-rank** is certified: a shallow network needs at least so many hidden units to equal the trained one. **Width within
10 %** is what it needs to stay within this error of the scores on mixed images.
`python -m ttlightning compare --wandb ENTITY/PROJECT` prints means, 95 % intervals and paired tests of the same runs.
"""
CURVES: Final = {
    "val/acc": ("Validation accuracy", "epoch", False),
    "train/loss": ("Training loss", "epoch", True),
    "rank/certified": ("Certified CP-rank", "trainer/global_step", True),
    "rank/width_10_percent": ("Width within 10 %", "trainer/global_step", True),
}
"""Logged value: title, x-axis, whether the y-axis is logarithmic."""
SWEPT: Final = {
    "model.scheduler.init_args.max_lr": True,
    "model.optimizer.init_args.weight_decay": True,
    "model.patch_dropout": False,
    "model.format.init_args.rank": False,
}
"""Setting of the sweeps in configs/sweeps: whether its axis is logarithmic."""
PICTURES: Final = ("test/mistakes", "rank/spectrum")


def curves() -> list[wr.LinePlot]:
    """A chart of each value in ``CURVES``, a line for each group."""
    return [
        wr.LinePlot(
            title=title,
            x=axis,
            y=[name],
            log_y=logarithmic,
            groupby="Group",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for name, (title, axis, logarithmic) in CURVES.items()
    ]


def results() -> list[wr.BarPlot | wr.ScatterPlot]:
    """Test accuracy of each group, and against the number of parameters; certified rank against accuracy."""
    accuracy = wr.SummaryMetric("test/acc")
    return [
        wr.BarPlot(title="Test accuracy", metrics=["test/acc"], groupby="Group", groupby_aggfunc="mean"),
        wr.ScatterPlot(title="Accuracy and size", x=wr.SummaryMetric("parameters"), y=accuracy, log_x=True),
        wr.ScatterPlot(title="Accuracy and rank", x=wr.SummaryMetric("rank/certified"), y=accuracy, log_x=True),
    ]


def sweep() -> wr.ParallelCoordinatesPlot:
    """The settings that the shipped sweeps vary, and the validation accuracy that they are judged by."""
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), log=log) for key, log in SWEPT.items()]
    return wr.ParallelCoordinatesPlot(
        title="Sweep", columns=[*columns, wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("val/acc"))]
    )


def confusions() -> wr.CustomChart:
    """W&B's own chart of the confusion matrix, from the table behind ``test/confusion``."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": "test/confusion_table"}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        chart_strings={"title": "Test set"},
    )


def report(entity: str, project: str) -> wr.Report:
    """The report of a project."""

    def grid(*panels: Any) -> wr.PanelGrid:
        return wr.PanelGrid(runsets=[wr.Runset(entity, project, "Experiments", groupby=["Group"])], panels=list(panels))

    chapters = {
        "Results": grid(*results()),
        "Training": grid(*curves()),
        "Settings": grid(sweep(), wr.RunComparer(diff_only=True)),
        "Confusions, mistakes, spectra": grid(confusions(), wr.MediaBrowser(media_keys=list(PICTURES))),
    }
    blocks = [wr.MarkdownBlock(INTRODUCTION.replace("ENTITY/PROJECT", f"{entity}/{project}"))]
    for title, panels in chapters.items():
        blocks += [wr.H1(title), panels]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def workspace(entity: str, project: str) -> ws.Workspace:
    """A saved view of a project's page."""
    parts = {"Training": curves(), "Results": results(), "Sweep": [sweep()]}
    sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in parts.items()]
    return ws.Workspace(entity=entity, project=project, name=TITLE, sections=sections)


MAKERS: Final = {"report": report, "workspace": workspace}
"""What ``wandb_report.py`` can make, from entity and project."""
