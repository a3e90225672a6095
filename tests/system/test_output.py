"""Where lines go, and what no line may carry to a terminal."""

import io
import json
import sys
import types
import unicodedata

import pytest
import rich.table
import yaml
from rich.console import Console

from ttlightning.commands.compare import collect
from ttlightning.comparison.statistics import compare
from ttlightning.comparison.tables import setting_table
from ttlightning.comparison.terminal import drawn
from ttlightning.system.output import printable, terminal

HOSTILE = "x\x1b[2J\x1b]0;title\x07\x9b31m\u202efdp\r\ny"
"""Clears the screen, renames the window, colours, turns the direction of writing, overwrites the line."""
SMALL = ("--config=debug.yaml", "--trainer.max_steps=2", "--figures=false")


def hidden(text: str) -> set[str]:
    """Characters of a text that a terminal obeys instead of showing."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"}


def poisoned(content, at):
    """Every text among the values, or the keys, of a part of a mapping, with ``HOSTILE`` behind it."""
    if isinstance(content, dict):
        return {key: poisoned(value, at) for key, value in content.items()} | (
            {HOSTILE: HOSTILE} if at == "keys" and content else {}
        )
    if isinstance(content, list):
        return [poisoned(value, at) for value in content]
    return content + HOSTILE if isinstance(content, str) and at == "values" else content


def test_what_is_printable():
    assert printable(HOSTILE) == r"x\x1b[2J\x1b]0;title\x07\x9b31m\u202efdp y"
    assert printable(" one \n\n two\tthree ") == r"one two\tthree"
    kept = "café, 北京, עברית, 👩‍👩‍👧 \udcff ≥ ± \N{NO-BREAK SPACE}|"
    assert printable(kept) == kept


@pytest.mark.parametrize("at", ["values", "keys"])
@pytest.mark.parametrize("name", ["result.json", "provenance.json", "config.yaml", "rank/certificate.json"])
def test_a_run_from_elsewhere_cannot_steer_the_terminal(name, at, command):
    """Whatever a command says of a poisoned file, in tables or in its one line."""
    command.finished(*SMALL)
    run = command.finished(*SMALL)
    file = run / name
    load = yaml.safe_load if name.endswith("yaml") else json.loads
    dump = yaml.safe_dump if name.endswith("yaml") else json.dumps
    file.write_text(dump(poisoned(load(file.read_text()), at)))
    path = str(run.relative_to(command.folder))
    spoken = 0
    for words in (
        ("compare", "runs/debug/0", path),
        ("rerun", path, "--check_only"),
        ("verify", f"{path}/rank/certificate.json"),
        ("certify", path, "--output=c.json"),
        ("test", "--ckpt_path", path),
        ("predict", "--ckpt_path", path, "--output=p.csv"),
        ("fit", "--ckpt_path", path),
    ):
        done = command(*words, code=None)
        assert not hidden(done.stdout + done.stderr), words
        assert "Traceback" not in done.stderr, words
        spoken += r"\x1b[2J" in done.stdout + done.stderr
    assert spoken or name != "config.yaml"


def test_a_table_on_a_terminal_has_no_text_that_steers_it(command):
    """rich keeps the escapes of a text that it is given."""
    command.finished(*SMALL)
    run = command.finished(*SMALL)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"dataset": HOSTILE}))
    found = io.StringIO()
    console = Console(file=found, force_terminal=True, color_system=None, width=400)
    runs = [str(run.parent / "0"), str(run)]
    table = drawn(setting_table(compare(collect(runs, None, curves=False))))
    assert isinstance(table, rich.table.Table)
    console.print(table)
    assert not hidden(found.getvalue())


def test_a_notebook_gets_plain_lines_and_others_may_ask_for_colours(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as ipykernel does
    assert terminal().is_terminal
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert not terminal().is_terminal
    assert not terminal(stderr=True).is_jupyter


def test_colours_that_are_forced_are_not_a_bar(command):
    command.environment["FORCE_COLOR"] = "1"
    said = command("fit", "--config=debug.yaml", "--trainer.limit_train_batches=2").stdout
    assert "\x1b[1mdata" in said  # bold
    assert "\x1b[?25l" not in said  # the cursor is hidden while a bar moves
    assert "epoch 1/1   loss" in said
