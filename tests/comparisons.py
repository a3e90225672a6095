"""What the tests of comparisons share: made-up runs, and readers of tables and pages."""

import json
from html.parser import HTMLParser
from pathlib import Path

import yaml

from ttlightning.comparison.records import Record

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def config(rank=4, seed=0, experiment="eq", dataset="mnist", **changes):
    """A short configuration; ``changes`` are of the trainer."""
    return {
        "seed_everything": seed,
        "trainer": {"max_epochs": 2, "devices": 1, **changes},
        "model": {"format": {"class_path": "ttlightning.TensorTrain", "init_args": {"rank": rank}}, "scheduler": None},
        "data": {"dataset": dataset, "root": None, "patch_size": 7},
        "experiment": experiment,
        "ckpt_path": None,
    }


def record(test=0.9, seed=0, place="", sha=None, data="mnist", data_sha="d", fallback=None, certified=9, **changes):
    """A record without files."""
    whole = config(seed=seed, **changes)
    return Record(
        place=place or f"run/{seed}",
        experiment=whole["experiment"],
        config=whole,
        seed=seed,
        dataset=data,
        dataset_sha256=data_sha * 64,
        fallback_for=fallback,
        metrics={} if test is None else {"test/acc": test},
        parameters=100,
        weights_sha256=sha or f"{whole['model']}{seed}{test}",
        certified=certified,
        widths={},
        seconds=2.0,
        commit=None,
        date=None,
    )


def write_run(folder: Path, test=0.9, seed=0, sha=None, data="mnist", data_sha="d" * 64, **changes):
    """The files of a finished run."""
    folder.mkdir(parents=True)
    whole = config(seed=seed, **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    git = {"commit": COMMIT, "dirty_diff_sha256": "1"}
    (folder / "provenance.json").write_text(json.dumps({"dataset": {"name": data, "sha256": data_sha}, "git": git}))
    result = {
        "experiment": whole["experiment"],
        "dataset": data,
        "seed": seed,
        "metrics": {"train/acc": 0.8, "val/acc": 0.7, "test/acc": test},
        "parameters": 1234,
        "weights_sha256": sha or f"{folder}".rjust(64, "0"),
        "seconds": 3.0,
        "rank": {"certified": [20, 12, 20], "width_images": 64, "width_10_percent": 7 + 2 * seed},
    }
    (folder / "result.json").write_text(json.dumps(result))
    rows = "0,,0.5,\n0,1.5,,\n1,,0.7,\n1,0.9,,\n2,,,0.9\n"
    (folder / "metrics.csv").write_text(f"epoch,train/loss,val/acc,test/acc\n{rows}")
    return folder


def table_of(text):
    """The lines of the first table in Markdown, a dictionary each."""
    lines = [line for line in text.split("\n\n")[0].splitlines() if line.startswith("|")]
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return [dict(zip(titles, row, strict=True)) for row in rows]


class Page(HTMLParser):
    """Text and tags of a page; what is not closed or closed twice ends the test."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)
