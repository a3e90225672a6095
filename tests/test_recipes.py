"""The promises of README.md, tried on every shipped recipe with its own schedule, augmentation and steps."""

import csv
import json
import re
from pathlib import Path

import pytest
from conftest import contents
from experiments import every_recipe, small_data

ROOT = Path(__file__).parents[1]


def recipe_words(recipe: str) -> tuple[str, ...]:
    """A recipe for two epochs, with a small dataset in place of MNIST."""
    small = small_data(recipe)
    batches = ("--data.batch_size=10",) if small else ()
    return ("fit", f"--config={recipe}", "--experiment=r", "--trainer.max_epochs=2", *small, *batches)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", every_recipe(("debug.yaml", "eq.yaml")))
@pytest.mark.usefixtures("rerun_in_this_process")
def test_a_recipe_keeps_what_readme_promises(command, recipe):
    said = command(*recipe_words(recipe)).stdout
    run = command.folder / "runs/r/0"
    result = command.result("r/0")
    assert said.splitlines()[-1] == "run         runs/r/0"
    assert f"test        {result['metrics']['test/acc']:.2%} right" in said

    done = command("rerun", "runs/r/0")
    assert "verdict     bitwise identical: runs/r/0 and runs/r/1" in done.stdout
    assert contents(command.folder / "runs/r/1") == contents(run)
    assert command("rerun", "runs/r/0", "--check_only").stdout.startswith("environment and data are as they were")

    if result["rank"]:
        certificate = json.loads((run / "rank/certificate.json").read_text())
        assert certificate["weights_sha256"] == result["weights_sha256"]
        assert min(certificate["cp_rank_at_least"]) == min(result["rank"]["certified"])
        command("verify", "runs/r/0/rank/certificate.json", "--checkpoint=runs/r/0")

    if not result["rank"]:
        assert "has no weight tensor" in command("certify", "runs/r/0", code=2).stderr
    elif recipe in ("sequences/series.yaml", "sequences/text.yaml"):
        command("certify", "runs/r/0", "--length=7")
        assert command("verify", "runs/r/0/rank/certificate-length-7.json").stdout.startswith("holds")
    else:
        command("certify", "runs/r/0", "--width=4")
        assert command("verify", "runs/r/0/rank/certificate-width-4.json").stdout.startswith("holds")

    tested = command("test", "--ckpt_path=runs/r/0").stdout
    [accuracy] = re.findall(r"test/acc\D+([0-9.]+)", tested)
    assert float(accuracy) == pytest.approx(result["metrics"]["test/acc"])
    command("predict", "--ckpt_path=runs/r/0", "--output=p.csv")
    rows = list(csv.DictReader((command.folder / "p.csv").open()))
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert right == pytest.approx(result["metrics"]["test/acc"])

    written = [file.read_bytes() for file in run.rglob("*") if file.is_file()]
    assert not any(str(Path.home()).encode() + b"/" in content for content in written if Path.home() != Path("/"))


PROMISES = (ROOT / "docs/promises.md").read_text().splitlines()
ROWS = [line.strip("|").split("|") for line in PROMISES if line.startswith("| ") and "::" in line]


def test_there_are_promises():
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:40])
def test_every_promise_has_a_test_that_is_there(row):
    tests = re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1])
    assert tests
    for file, name in tests:
        source = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file} has no {name}"


def test_the_table_names_every_command_of_readme():
    """The table has a row for each verb in the examples of README.md."""
    shown = set(re.findall(r"python -m ttlightning (\w+)", (ROOT / "README.md").read_text()))
    assert shown
    for verb in shown:
        assert any(f"`{verb}" in row[0] for row in ROWS), verb
