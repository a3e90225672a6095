"""scripts/verify_certificate.py as a module."""

import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "verify_certificate.py"
SPECIFICATION = importlib.util.spec_from_file_location("verify_certificate", SCRIPT)
alone = importlib.util.module_from_spec(SPECIFICATION)
sys.modules["verify_certificate"] = alone
SPECIFICATION.loader.exec_module(alone)


def judged(file, weights=None, limit=600):
    """Code and line; the line is one, and printable."""
    code, line = alone.judge(file, weights, limit)
    assert line.split()[0] == ("holds", "REJECTED", "UNCHECKED")[code]
    assert line.isprintable()
    return code, line
