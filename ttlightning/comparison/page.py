"""A comparison as one HTML page that needs no other file: ``page.html.jinja`` holds its text, style and script."""

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from ttlightning.comparison import tables
from ttlightning.comparison.figure import COLOURS, panel_svg, panels
from ttlightning.comparison.statistics import Comparison

DARK_COLOURS: Final = ("#5b9ef0", "#f08a3c", "#35bd90", "#a58be8", "#ee74b0", "#d3a72c", "#ef7168", "#45b9cb")


def page(comparison: Comparison) -> str:
    """The HTML document. Jinja escapes every text that comes from a run."""
    names = list(dict.fromkeys(record.experiment for group in comparison.groups for record in group.records))
    environment = Environment(
        loader=PackageLoader("ttlightning.comparison", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(
        title="Comparison of " + (" and ".join(names) if len(names) < 3 else f"{len(names)} experiments"),
        names=names,
        comparison=comparison,
        colours=COLOURS,
        dark_colours=DARK_COLOURS,
        tables=tables,
        curves=[panel_svg(comparison, name) for name in panels(comparison)],
        groups_of_runs=[i for i, group in enumerate(comparison.groups) for _ in (*group.records, *group.repeats)],
    )
