"""A report and a workspace for a W&B project of this package, as code.

    python scripts/wandb_report.py ENTITY/ttlightning                        # both, once the runs are uploaded
    python scripts/wandb_report.py ENTITY/ttlightning --only report

The report compares experiments: accuracy over epochs, mean and interval over the seeds of a group; accuracy against
parameters; the certified rank and the width that imitates, against training; the settings of a sweep; confusions. The
workspace shows the same charts for all runs of the project. Nothing that exists is changed: each call makes new ones.
"""

import argparse
import re

from ttlightning.errors import UserError
from ttlightning.system.output import run_script

PARTS = ("report", "workspace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", help="entity/project at W&B")
    parser.add_argument("--only", choices=PARTS, help="one of the two")
    options = parser.parse_args()
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", options.project):
        raise UserError(f"the project is {options.project!r}, it must be entity/project")
    from wandb_views import MAKERS

    for name in PARTS if options.only is None else (options.only,):
        try:
            view = MAKERS[name](*options.project.split("/")).save()
        except Exception as fault:  # a missing login is no subclass of it
            reason = (str(fault) or type(fault).__name__).splitlines()[0]
            raise UserError(f"W&B did not take the {name} for {options.project}: {reason}") from fault
        print(f"{name:<10}  {view.url}")


if __name__ == "__main__":
    run_script(main)
