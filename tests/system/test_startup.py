"""What a command imports before it answers: time is not measured here, it follows from these (scripts/startup.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from comparisons import write_run

from ttlightning.commands import WITH_TRAINER, WITHOUT_TRAINER

HEAVY = ("torch", "torchvision", "lightning", "wandb", "scipy", "sklearn", "matplotlib", "jinja2")
CERTIFY = ["certify", "--mode_size=3", "--rank=2", "--sites=8"]
CODE = """
import json, sys
from ttlightning.commands.main import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)), file=open("modules.json", "w"))
"""


def imported_by(folder: Path, *words: str) -> set[str]:
    """Those of ``HEAVY`` that a command imports, and whether it has ended well."""
    subprocess.run([sys.executable, "-c", CODE, json.dumps(words)], cwd=folder, check=True, capture_output=True)
    modules = json.loads((folder / "modules.json").read_text())
    assert "ttlightning.commands.main" in modules
    return {name for name in HEAVY if name in modules}


@pytest.mark.parametrize("verb", ["", *WITH_TRAINER, *WITHOUT_TRAINER])
def test_help_imports_nothing_that_takes_long(tmp_path, verb):
    assert imported_by(tmp_path, *verb.split(), "--help") == set()


def test_rank_and_generic_certificates_are_counted_without_torch(tmp_path):
    assert imported_by(tmp_path, "rank", "--mode_size=2:5", "--measure", "--output=t.csv") == set()
    assert imported_by(tmp_path, *CERTIFY, "--output=c.json") == set()
    assert imported_by(tmp_path, "verify", "c.json") == set()
    assert {"c.json", "t.csv"} < {file.name for file in tmp_path.iterdir()}


def test_compare_imports_what_it_is_asked_for(tmp_path):
    """A part of SciPy for intervals, matplotlib for curves, jinja2 for the page; torch and Lightning for nothing."""
    for seed in (0, 1):
        write_run(tmp_path / "runs/eq" / str(seed), seed=seed)
    assert imported_by(tmp_path, "compare", "runs/eq/0", "--csv=a.csv") == set()
    assert imported_by(tmp_path, "compare", "runs/eq") == {"scipy"}
    assert imported_by(tmp_path, "compare", "runs/eq", "--html=a.html") == {"scipy", "matplotlib", "jinja2"}


def test_the_trainers_verbs_speak_before_lightning_is_there(tmp_path):
    """A line with the version comes first; text that is meant for a file has none."""
    code = (
        "import sys; from importlib import import_module\n"
        "from ttlightning.commands import main\n"
        "def stop(name): print(sorted({'lightning', 'torch'} & set(sys.modules))); sys.exit()\n"
        "main.import_module = stop; main.main(sys.argv[1:])"
    )

    def output(*words):
        return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout

    first, second = output("fit", "--config=eq.yaml").splitlines()
    assert first.startswith("fit         ttlightning ")
    assert second == "[]"
    for words in (["fit", "--print_config"], ["fit", "--help", "all"], ["--config=eq.yaml", "fit"]):
        assert output(*words) == "[]\n"


def test_the_shapes_of_a_format_are_known_without_the_compiler():
    """certify and verify build the format of a checkpoint on the meta device first."""
    code = """
import sys, torch
from ttlightning import formats
with torch.device("meta"):
    for name in sorted(formats.NAMES):
        assert all(p.is_meta for p in getattr(formats, name)(4, 3, 2, 2).parameters()), name
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
