"""Which callbacks and options of Lightning work with ``fit``, and how each was checked, as one table.

    python scripts/lightning_table.py [--output results/lightning.md] [--processes 2]

Runs tests/training/test_callbacks_of_lightning.py and test_options_of_the_trainer.py. A row is a test that names what
it tries. Exit code 1 if a test fails.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from ttlightning.runs.files import write_whole
from ttlightning.system.output import run_script

ROOT = Path(__file__).parent.parent
FILES = ("test_callbacks_of_lightning.py", "test_options_of_the_trainer.py")


class Rows:
    """Collects what the tests record: the row's name, how it was checked, and the verdict."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        values = dict(report.user_properties)
        if "row" in values and (report.when == "call" or report.failed):
            refused = values["how"].startswith("refused")
            verdict = "FAILS" if report.failed else "refused" if refused else "works"
            self.rows[values["row"]] = verdict, values["how"]


def table(rows: dict[str, tuple[str, str]]) -> str:
    """Markdown; callbacks first, in alphabetical order."""
    titles = sorted(rows, key=lambda name: (not name.startswith("callback"), name.startswith("trainer"), name.lower()))
    lines = [f"| `{re.sub(r'^(callback|trainer) ', '', name)}` | {' | '.join(rows[name])} |" for name in titles]
    works = sum(verdict == "works" for verdict, _ in rows.values())
    versions = f"Lightning {lightning.__version__}, torch {torch.__version__}"
    head = [
        "# Lightning's callbacks and options with `fit`",
        "",
        f"{versions}; {works} of {len(rows)} rows work, the others are refused in one line.",
        "",
        "| callback or option | verdict | how it was checked |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/lightning.md"))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    rows = Rows()
    files = [str(ROOT / "tests/training" / name) for name in FILES]
    code = pytest.main(["-q", "-n", str(options.processes), "--rootdir", str(ROOT), *files], plugins=[rows])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.output, table(rows.rows).encode())
    print(options.output)
    raise SystemExit(int(code))


if __name__ == "__main__":
    run_script(main)
