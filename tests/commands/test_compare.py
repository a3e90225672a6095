"""``compare``, as a user types it: which runs are read, what is refused, the files, W&B."""

import csv
import re
from functools import reduce
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
import yaml
from comparisons import COMMIT, Page, table_of, write_run
from conftest import assert_one_line, read_wandb

from ttlightning.comparison.records import settings
from ttlightning.comparison.sources import find_runs, read_record, wandb_records
from ttlightning.comparison.statistics import compare
from ttlightning.comparison.tables import NOTHING
from ttlightning.errors import UserError
from ttlightning.runs.identity import ADDED_KEYS

SMALL = ("--config=debug.yaml", "--data.dataset=mnist", "--wandb.mode=offline")


def test_mixed_data_on_the_command_line(command):
    write_run(command.folder / "runs/eq/0")
    write_run(command.folder / "runs/eq/1", seed=1, data="kmnist", dataset="kmnist", data_sha="e" * 64)
    assert "of 2 data sets: mnist" in command("compare", "runs/eq", code=2).stderr
    done = command("compare", "--mixed_data", "runs/eq", "--html=a.html")
    assert [line["data"] for line in table_of(done.stdout)] == ["mnist", "kmnist"]
    assert "e" * 64 in (command.folder / "a.html").read_text()


def test_runs_named_foldered_and_globbed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("eq/0", "eq/2", "eq/10", "tt/0"):
        write_run(Path("runs") / name)
    (Path("runs/eq/3")).mkdir()
    (Path("runs/eq/3/config.yaml")).write_text("{}")
    (Path("runs/eq/notes")).mkdir()

    def names(*words):
        return [[str(run.relative_to("runs")) for run in part] for part in find_runs(words)]

    assert names("runs/eq") == [["eq/0", "eq/2", "eq/10"], ["eq/3"]]
    assert names("runs/tt/0", "runs/*") == [["tt/0", "eq/0", "eq/2", "eq/10"], ["eq/3"]]
    assert names("runs/eq*/[0-2]") == [["eq/0", "eq/2"], []]
    assert names("runs/eq/3") == [["eq/3"], []]  # named: reading it says what is missing
    wrong = {"runs/cp": "does not exist", "runs/x*": "does not exist", "runs/eq/notes": "holds no run directory"}
    for word, why in (wrong | {"runs/eq/0/result.json": "holds no run directory"}).items():
        with pytest.raises(UserError, match=why):
            find_runs([word])


def test_a_run_from_before_an_option_is_of_the_group_of_those_after(command):
    """Real runs; the config of one is as a version wrote it that had none of the options that came after 0.1."""
    for seed in (0, 1):
        command("fit", *SMALL, "--experiment=eq", f"--seed_everything={seed}")
    command("fit", *SMALL, "--experiment=eq", "--seed_everything=0", "--model.label_smoothing=0.1")
    file = command.folder / "runs/eq/0/config.yaml"
    content = yaml.safe_load(file.read_text())
    for key in ADDED_KEYS:
        *parts, last = key.split(".")
        del reduce(dict.__getitem__, parts, content)[last]
    file.write_text(yaml.safe_dump(content))
    lines = table_of(command("compare", "runs/eq").stdout)
    assert [(line["seeds"], line["label_smoothing"]) for line in lines] == [("2", "0"), ("1", "0.1")]


def test_unfinished_runs(command):
    write_run(command.folder / "runs/eq/0")
    (write_run(command.folder / "runs/eq/1") / "result.json").unlink()
    done = command("compare", "runs/eq")
    assert done.stderr == "ttlightning: left out, not finished: runs/eq/1\n"
    assert table_of(done.stdout)[0]["seeds"] == "1"
    assert "runs/eq/1 is not finished" in command("compare", "runs/eq", "runs/eq/1", code=2).stderr
    assert "no run is finished: runs/eq/1" in command("compare", "runs/eq/[1]", code=2).stderr


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("result.json", "{", "result.json cannot be read"),
        ("result.json", '{"seed": 0}', "there is no 'metrics'"),
        ("result.json", '{"metrics": {"test/acc": NaN}}', "test/acc is nan"),
        ("result.json", '{"metrics": {"test/acc": "high"}}', "could not convert"),
        ("result.json", '{"metrics": {"test/acc": 1' + "0" * 400 + "}}", "int too large to convert to float"),
        ("result.json", '{"metrics": {"test/acc": 1' + "0" * 5000 + "}}", "result.json cannot be read"),
        ("result.json", "[" * 100_000, "result.json cannot be read"),
        ("provenance.json", None, "provenance.json does not exist"),
        ("provenance.json", '{"dataset": null}', "does not hold what a finished run leaves"),
        ("config.yaml", "[]", "config.yaml is no mapping of names to values"),
        ("config.yaml", "[" * 10_000, "config.yaml has aliases or over 50 levels"),
        ("config.yaml", b"\xff\xfe\x00", "config.yaml cannot be read as text"),
        ("config.yaml", None, "has no config.yaml"),
        ("metrics.csv", None, "metrics.csv cannot be read"),
        ("metrics.csv", b"epoch,val/acc\n0,\xff", "metrics.csv cannot be read"),
        ("metrics.csv", "epoch,val/acc\n0,high\n", "could not convert"),
        ("metrics.csv", "val/acc\n0.5\n", "there is no 'epoch'"),
    ],
)
def test_missing_and_corrupt_files(command, file, content, why):
    place = write_run(command.folder / "runs/eq/0") / file
    if content is None:
        place.unlink()
    elif isinstance(content, bytes):
        place.write_bytes(content)
    else:
        place.write_text(content)
    done = command("compare", "runs/eq/0", "--html=page.html", code=2)
    assert_one_line(done.stderr, why)
    assert not (command.folder / "page.html").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "compare needs runs"),
        ("runs/none", "runs/none does not exist"),
        ("runs/none --csv=mine.txt", "mine.txt exists and is left as it is"),
        ("runs/none --html=none/page.html", "none is not a folder"),
        ("runs/none --csv=a --markdown=a", "a is asked for twice"),
        ("runs/none --figure=a.doc", "its ending must be one of"),
        ("--wandb=mine", "--wandb is 'mine', it must be entity/project"),
        ("runs/none --colour=red", "colour"),
    ],
)
def test_refused_before_any_work(command, words, why):
    (command.folder / "mine.txt").write_text("mine")
    done = command("compare", *words.split(), code=2)
    assert_one_line(done.stderr, why)
    assert [path.name for path in command.folder.iterdir()] == ["mine.txt"]
    assert (command.folder / "mine.txt").read_text() == "mine"


def test_the_page_is_self_contained_and_escaped(command):
    """A hostile setting is shown as it is, in page, figure and table."""
    hostile = "<script>alert(1)</script>|$x_$"
    for seed in (0, 1):
        write_run(command.folder / "runs/eq" / str(seed), 0.9 + seed / 100, seed, note=hostile)
        write_run(command.folder / "runs/tt" / str(seed), 0.8, seed, experiment="tt", rank=8, note="&amp;\"'>")
    command("compare", "runs/eq", "runs/tt", "--html=a.html", "--figure=a.svg", "--markdown=a.md", "--csv=a.csv")
    text = (command.folder / "a.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert text.count("<script>") == 1
    page = Page(text)
    shown = "".join(page.text)
    assert hostile in shown
    assert "&amp;\"'>" in shown
    assert not page.tags & {"link", "img", "iframe", "object"}
    assert not any(name == "src" or name.startswith("on") for name, _ in page.attributes)
    references = {value for name, value in page.attributes if name in ("href", "xlink:href")}
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert all(value[1:] in identifiers for value in references)
    assert len(set(identifiers)) == len(identifiers)
    for told in ("Comparison of eq and tt", "d" * 64, COMMIT[:12] + " with changes", "runs/tt/1", "format.rank"):
        assert told in shown
    for told in ("prefers-color-scheme: dark", 'name="viewport"', "validation accuracy", "training loss"):
        assert told in text
    assert hostile in (command.folder / "a.csv").read_text()
    assert "&lt;script>alert(1)&lt;/script>\\|$x_$" in (command.folder / "a.md").read_text()
    assert (command.folder / "a.svg").read_text().startswith("<?xml")


def test_files_hold_what_is_printed(command):
    for seed, test in enumerate((0.5, 0.7)):
        write_run(command.folder / "runs/eq" / str(seed), test, seed)
    done = command("compare", "runs/eq", "--markdown=a.md", "--csv=a.csv", "--figure=a.png")
    assert (command.folder / "a.md").read_text() == done.stdout
    [row] = csv.DictReader((command.folder / "a.csv").open())
    assert float(row["test/acc interval"]) == pytest.approx(12.706205 * 0.1, rel=1e-6)
    assert (row["label"], row["seeds"], row["certified"], row["notes"]) == ("eq", "2", "12", "")
    assert (row["width_10_percent"], row["width_1_percent"]) == ("8.0", "")
    assert (command.folder / "a.png").read_bytes()[:4] == b"\x89PNG"
    [line] = table_of(done.stdout)
    assert line == {
        "name": "eq", "seeds": "2", "parameters": "1,234", "train %": "80.00 ± 0.00", "val %": "70.00 ± 0.00",
        "test %": "60.00 ± 127.06", "CP-rank ≥": "12", "10 % ≥": "8", "1 % ≥": NOTHING,
            "seconds": "3.0",
    }  # fmt: skip


def test_nothing_to_draw(command):
    (write_run(command.folder / "runs/eq/0") / "metrics.csv").write_text("epoch,test/acc\n2,0.9\n")
    done = command("compare", "runs/eq", "--figure=a.png", code=2)
    assert "there is nothing to draw" in done.stderr
    command("compare", "runs/eq", "--html=a.html")
    assert "No run has logged" in (command.folder / "a.html").read_text()


def test_curves_are_mean_and_range(tmp_path):
    runs = [write_run(tmp_path / str(seed), 0.9, seed) for seed in (0, 1)]
    (runs[1] / "metrics.csv").write_text("epoch,val/acc,train/loss\n0.0,0.7,\n0,,nan\n1.0,0.9,\n1,,1.1\n")
    [group] = compare([read_record(run, curves=True) for run in runs]).groups
    assert group.curve("val/acc") == {1: pytest.approx((0.5, 0.6, 0.7)), 2: pytest.approx((0.7, 0.8, 0.9))}
    assert group.curve("train/loss") == {1: (1.5, 1.5, 1.5), 2: pytest.approx((0.9, 1.0, 1.1))}


def test_two_real_runs_from_their_directories_and_from_wandb(command, monkeypatch):
    """What W&B's own reader finds in the offline records, behind a made-up API, gives the same records."""
    wandb.teardown()  # its service, if a test before has started it, lives in the folder of that test
    for seed in (0, 1):
        command("fit", *SMALL, f"--seed_everything={seed}")
    command("fit", *SMALL, "--model.format.rank=3")
    done = command("compare", "runs/debug", "--html=page.html")
    first, second = table_of(done.stdout)
    assert (first["format.rank"], first["seeds"], second["format.rank"], second["seeds"]) == ("4", "2", "3", "1")
    tests = [command.result(f"debug/{n}")["metrics"]["test/acc"] for n in (0, 1)]
    assert first["test %"].strip("*").startswith(f"{100 * sum(tests) / 2:.2f} ± ")
    assert first["CP-rank ≥"] == "20"
    assert "too few common seeds" in done.stdout
    Page((command.folder / "page.html").read_text())

    monkeypatch.chdir(command.folder)
    [log] = Path("runs/debug/0/wandb").glob("offline-run-*/*.wandb")
    content, records = read_wandb(log)
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    there = wandb_run(config=content["config"], summary=content["summary"], scan_history=lambda: rows)
    monkeypatch.setattr(wandb, "Api", fake_api([there, wandb_run(id="b", state="crashed"), wandb_run(id="c")]))
    [mine], others = wandb_records("me/project", curves=True)
    assert others == ["me/project/b", "me/project/c"]
    local = read_record(Path("runs/debug/0"), curves=True)
    same = "seed dataset dataset_sha256 metrics parameters weights_sha256 certified widths curves date"
    for name in same.split():
        assert getattr(mine, name) == getattr(local, name), name
    assert settings(mine.config) == settings(local.config)
    assert mine.seconds == pytest.approx(local.seconds)
    assert (mine.place, mine.commit) == ("me/project/a", local.commit)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", mine.date)
    assert 1 <= local.widths["width_10_percent"][0] <= local.widths["width_10_percent"][1]
    assert list(local.curves["rank/width_10_percent"]) == [0, 1]
    assert len(local.curves["val/acc"]) == len(local.curves["train/loss"]) == 1
    done = command("compare", "runs/debug/0", "--wandb=me/project")
    assert "me/project/a came to the same weights as runs/debug/0" in done.stdout
    assert done.stderr == "ttlightning: left out, not finished: me/project/b, me/project/c\n"


def wandb_run(**parts):
    common = {"id": "a", "state": "finished", "config": {}, "summary": {}}
    return SimpleNamespace(**common | {"scan_history": list} | parts)


def fake_api(runs):
    class Api:
        def __init__(self, timeout):
            assert timeout > 0

        def runs(self, path):
            assert path == "me/project"
            if isinstance(runs, Exception):
                raise runs
            return iter(runs)

    return Api


@pytest.mark.parametrize(
    "fault", [wandb.errors.CommError("no route\nto host"), ConnectionError("no route"), ValueError("no route")]
)
def test_wandb_that_does_not_answer(command, monkeypatch, fault):
    monkeypatch.setattr(wandb, "Api", fake_api(fault))
    done = command("compare", "--wandb=me/project", code=2)
    assert_one_line(done.stderr, "W&B does not give the runs of me/project (no route)")


def test_foreign_wandb_runs_are_refused(command, monkeypatch):
    monkeypatch.setattr(wandb, "Api", fake_api([wandb_run(summary={"weights_sha256": "1"}, config={"provenance": 1})]))
    assert "me/project/a does not hold what" in command("compare", "--wandb=me/project", code=2).stderr
    monkeypatch.setattr(wandb, "Api", fake_api([]))
    assert "no run is finished: me/project" in command("compare", "--wandb=me/project", code=2).stderr
