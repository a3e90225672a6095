"""What a terminal of 80 columns shows, and a file or pipe in its place."""

import re
from io import StringIO

import pytest
from comparisons import table_of, write_run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ttlightning.commands import GROUPS, WITH_TRAINER, WITHOUT_TRAINER, overview
from ttlightning.commands.short_help import groups_of, short_help
from ttlightning.commands.studies import command_line
from ttlightning.system.output import columns, wrapped
from ttlightning.system.parsing import option_names, parsers_of
from ttlightning.training.callbacks.progress import print_lines

WORDS = st.lists(st.text("abc-./", min_size=1, max_size=30), min_size=1, max_size=30)


@pytest.fixture
def terminal(monkeypatch):
    """Standard output counts as a terminal of 80 columns."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def plain(text: str) -> str:
    """The text without the codes of colours and bold type."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_overview_has_every_verb_once_in_80_columns():
    assert sorted(verb for verbs in GROUPS.values() for verb in verbs) == sorted(WITH_TRAINER | WITHOUT_TRAINER)
    assert max(map(len, overview().splitlines())) <= 80


@pytest.mark.parametrize("verb", WITH_TRAINER)
def test_the_short_help_is_short_and_true(command, verb):
    """Every option that it names is one of the verb; the complete help names them too, and many more."""
    said = command(verb, "--help").stdout
    assert said == short_help(verb) + "\n"
    assert max(map(len, said.splitlines())) <= 80
    assert len(said.splitlines()) <= 45
    parser = parsers_of(command_line().parser)[verb]
    known = {*option_names(parser), "trust", "model.format.rank", "model.optimizer.lr", "model.features.mode_size"}
    named = [words.split()[0] for options in groups_of(verb).values() for words in options]
    assert {name.removeprefix("--") for name in named} <= {name.removeprefix("--") for name in known}
    assert len(set(named)) == len(named)


def test_the_complete_help_has_every_option(command):
    said = command("predict", "--help", "all").stdout
    assert len(said.splitlines()) > 300
    assert "--trainer.limit_predict_batches" in said


@given(WORDS, st.integers(1, 100), st.integers(0, 20))
def test_wrapping_breaks_no_word_and_loses_none(words, width, indent):
    lines = wrapped(" ".join(words), width, indent).split("\n")
    assert " ".join(lines).split() == words
    for line in lines:
        assert len(line) <= max(width, indent + 20) or len(line.split()) == 1
    assert all(line.startswith(" " * indent) for line in lines[1:])


def test_columns_keep_their_texts_apart():
    assert columns({"--a B": "one two", "--long": "three"}, indent=2, width=14) == [
        "  --a B   one two", "  --long  three"]  # fmt: skip
    assert columns({"-a": "x" * 15 + " y"}, width=20) == [f"-a  {'x' * 15} y"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_lines_of_fit_in_80_columns_and_in_a_file(is_terminal):
    rows = {"certified": "CP-rank of every class tensor " * 5, "run": "/a long/" * 30}
    said = StringIO()
    print_lines(Console(file=said, width=80, force_terminal=is_terminal, color_system=None), rows)
    lines = said.getvalue().splitlines()
    assert lines[-1] == f"run         {rows['run']}"
    if is_terminal:
        assert max(map(len, lines[:-1])) <= 80
        assert all(line.startswith(" " * 12) for line in lines[1:-1])
    assert (len(lines) > 2) == is_terminal
    assert " ".join(" ".join(lines[:-1]).split()) == f"certified {rows['certified'].strip()}"


@pytest.mark.usefixtures("terminal")
def test_bounds_and_certificates_in_80_columns(command):
    said = [command("rank", "--mode_size=2:5", "--sites=16").stdout,
            command("certify", "--mode_size=5", "--rank=3", "--sites=8", "--output=c.json").stdout,
            command("verify", "c.json").stdout]  # fmt: skip
    for text in map(plain, said):
        assert 0 < max(map(len, text.splitlines())) <= 80
    assert "has CP-rank at least 375" in " ".join(said[2].split())


def test_a_certificate_is_one_line_in_a_file(command):
    command("certify", "--mode_size=5", "--rank=3", "--sites=8", "--output=c.json")
    [line] = command("verify", "c.json").stdout.splitlines()
    assert "has CP-rank at least 375" in line


@pytest.mark.usefixtures("terminal")
def test_compare_on_a_terminal_has_the_numbers_of_the_markdown_table(command, monkeypatch):
    """Two groups are turned on their side to fit into 80 columns; a wide terminal and many groups are not."""
    for seed in (0, 1):
        write_run(command.folder / f"runs/eq/{seed}", seed=seed, test=0.9 + 0.01 * seed)
        write_run(command.folder / f"runs/tt/{seed}", seed=seed, test=0.8, experiment="tt", rank=8)
    narrow = plain(command("compare", "runs/eq", "runs/tt", "--markdown=t.md").stdout)
    assert max(map(len, narrow.splitlines())) <= 80
    lines = table_of((command.folder / "t.md").read_text())
    cells = [re.findall(r"[^│┃]+", line) for line in narrow.splitlines() if "│" in line]
    turned = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}
    for title in ("parameters", "test %", "CP-rank ≥", "seconds"):
        assert turned[title] == [line[title].strip("*") for line in lines]
    monkeypatch.setenv("COLUMNS", "200")
    wide = plain(command("compare", "runs/eq", "runs/tt").stdout)
    [first] = [line for line in wide.splitlines() if line.startswith("┃ name")]
    assert "test %" in first


def test_compare_prints_markdown_into_a_file(command):
    write_run(command.folder / "runs/eq/0")
    assert command("compare", "runs/eq").stdout.startswith("| name | seeds |")
