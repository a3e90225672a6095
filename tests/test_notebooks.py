"""The notebooks: their cells run in a process without Jupyter, and their files are small, executed and linked."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EARLY = "your_own_data"
"""Every change tries its cells; those of the others are tried every night."""
REPOSITORY = re.search(r'^Repository = "https://github.com/(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]


def cells(file: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_executed_small_and_linked(file):
    code = cells(file, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    for output in outputs:  # plain lines and pictures; no traceback, no markup of bars that are gone
        assert output.get("name") == "stdout" or "image/png" in output["data"], output
    assert file.stat().st_size < 150_000
    assert not re.search(r"/(home|work|root|Users)/", file.read_text())
    links = re.findall(r"colab\.research\.google\.com/github/(\S+?)\)", "".join(cells(file, "markdown")[0]["source"]))
    assert links == [f"{REPOSITORY}/blob/main/notebooks/{file.name}"]
    assert f"git+https://github.com/{REPOSITORY}" in "".join(code[0]["source"])


def test_the_page_of_notebooks_has_them_all():
    page = (ROOT / "docs/notebooks.md").read_text()
    linked = re.findall(r"\]\(\.\./notebooks/(\S+?)\)", page)
    assert sorted(linked) == [file.name for file in NOTEBOOKS]
    assert len(NOTEBOOKS) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [pytest.param(f, id=f.stem, marks=[] if f.stem == EARLY else pytest.mark.nightly) for f in NOTEBOOKS]
)
def test_the_cells_of_a_notebook_run(file, tmp_path):
    script = "\n".join("".join(cell["source"]) for cell in cells(file, "code"))
    (tmp_path / "script.py").write_text(script)
    environment = clean_environment(WANDB_MODE="disabled", OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
