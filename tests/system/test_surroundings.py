"""Ordinary surroundings that are none of a developer's desk: no home, a narrow terminal, nobody who reads."""

import os
import pwd
import re
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import assert_one_line
from rich.console import Console
from rich.table import Table

from ttlightning.runs.masking import scrub
from ttlightning.runs.run import Run
from ttlightning.system.output import print_whole
from ttlightning.system.paths import command as command_line
from ttlightning.system.paths import expanded, home
from ttlightning.training.callbacks.progress import describe_result, print_lines
from ttlightning.training.callbacks.run_directory import RunDirectory
from ttlightning.training.callbacks.wandb_run import WandbOptions

FIT = "fit", "--config=debug.yaml", "--data.dataset=mnist", "--figures=false"
NOBODY = "import pwd\ndef unknown(*_):\n    raise KeyError('getpwuid(): uid not found')\npwd.getpwuid = unknown\n"


@pytest.fixture
def homeless(monkeypatch):
    """No $HOME, and no entry for the user, as in a container that was started under any number."""

    def unknown(*_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_a_run_is_like_any_other(command, tmp_path):
    (tmp_path / "nobody").mkdir()
    (tmp_path / "nobody" / "sitecustomize.py").write_text(NOBODY)
    path = os.pathsep.join([str(tmp_path / "nobody"), os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))])
    environment = {"HOME": "", "USER": "", "LOGNAME": "", "PYTHONPATH": path, "WANDB_MODE": "offline"}
    done = command.process(*FIT, "--figures=true", **environment, TTLIGHTNING_KERNEL="torch")
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "run         runs/debug/0"
    assert [path.name for path in command.folder.iterdir()] == ["runs"]  # no folder is called ~
    assert list((command.folder / "runs/debug/0/wandb").glob("offline-run-*/*.wandb"))


def test_a_tilde_without_a_home_folder_is_refused(homeless, command, tmp_path):
    assert home() is None
    assert scrub("/home/ada ~ /") == "/home/ada ~ /"
    assert expanded("/a/b") == Path("/a/b")
    for words in (["--data.root=~/x"], ["--ckpt_path=~/x"], ["--ckpt_path", "~"]):
        assert_one_line(command(*FIT, *words, code=2).stderr, "~ has no home folder here")
    command.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    for name in ("TTLIGHTNING_RUNS", "TTLIGHTNING_DATA"):
        command.environment |= {"TTLIGHTNING_DATA": str(command.data), name: "~/x"}
        assert_one_line(command(*FIT, code=2).stderr, "~/x: ~ has no home folder here")
    assert list(command.folder.iterdir()) == []


@pytest.mark.parametrize("value", ["", ".", "relative"])
def test_a_home_that_is_no_folder_masks_nothing(monkeypatch, value):
    monkeypatch.setenv("HOME", value)
    assert scrub("fit . relative/x / ~") == "fit . relative/x / ~"


def nobody_reads() -> int:
    """The end of a pipe whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_closed_output_does_not_end_a_run(command):
    process = command.start(*FIT, stdout=nobody_reads(), stderr=nobody_reads())
    assert process.wait(300) == 0
    assert command.result("debug/0")["epochs"] == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["rank", "--sites=4:40"], 0, ""), (["verify", "nothing.json"], 2, ""), (["verify"], 2, "ttlightning: ")],
)
def test_commands_end_quietly_and_with_their_own_exit_code(command, words, code, said):
    process = command.start(*words, stdout=nobody_reads(), stderr=subprocess.PIPE)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == code
    assert "Error" not in errors
    assert errors.startswith(said)
    assert len(errors.splitlines()) == bool(said)


def test_closed_output_does_not_end_a_script(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ttlightning.system.output import run_script\n"
        "def main():\n"
        "    print('a line', flush=True)\n"
        "    Path(sys.argv[1]).touch()\n"
        "    print('another')\n"
        "run_script(main)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "done")]
    done = subprocess.run(words, stdout=nobody_reads(), stderr=subprocess.PIPE, check=True)
    assert (tmp_path / "done").exists()
    assert done.stderr == b""


def test_every_script_is_started_by_run_script():
    """What is started is started by ``run_script``; and one that was not always, in a process."""
    scripts = Path(__file__).parents[2] / "scripts"
    alone = scripts / "verify_certificate.py"  # imports nothing of the package
    started = [file for file in scripts.glob("*.py") if "__main__" in file.read_text() and file != alone]
    assert len(started) > 10
    for file in started:
        start = r'^if __name__ == "__main__":\n    run_script\(\w+\)\n\Z'
        assert re.search(start, file.read_text(), re.MULTILINE), file
    certificate = scripts.parent / "results/certificates/generic-n5-r3-d8.json"
    for words in ([str(scripts / "rank_agreement.py"), "--entries=8"], [str(alone), str(certificate)]):
        command = [sys.executable, *words]
        done = subprocess.run(command, stdout=nobody_reads(), stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0
        assert "Error" not in done.stderr


def test_the_last_line_is_whole_in_a_narrow_terminal(command, tmp_path):
    """And what is in brackets is no markup."""
    root = tmp_path / "a folder with a long name that is longer than any terminal is wide [bold]" / "x[/]y" / "[red]"
    command.environment |= {"COLUMNS": "20", "TTLIGHTNING_RUNS": str(root)}
    lines = command(*FIT).stdout.splitlines()
    assert lines[-1] == f"run         {root}/debug/0"
    [epoch] = [line for line in lines if line.startswith("epoch")]
    assert epoch.endswith(" s")


@pytest.mark.parametrize("width", [1, 20, 200])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_path_of_a_run_at_any_width(width, is_terminal):
    path = Path("/data/" + "long " * 30 + "[x]/eq/12")
    said = StringIO()
    console = Console(file=said, width=width, force_terminal=is_terminal, color_system=None)
    print_lines(console, describe_result({"metrics": {}, "rank": {}}, path))
    assert f"run         {path}" in said.getvalue().splitlines()[-1]


@pytest.mark.parametrize("width", ["10", "300"])
def test_a_table_keeps_its_numbers_at_any_width(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", width)
    table = Table("one column", "another column")
    table.add_row("1234567890123", "9876543210987")
    print_whole(table)
    assert "│ 1234567890123 │ 9876543210987  │" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["runs/eq/0", "my  runs/eq/0", "a;b/$HOME/'x'/0", "runs/(1)/0"])
def test_a_printed_command_can_be_given_to_a_shell(path):
    """As it is: two spaces are two spaces in the line on stderr, too."""
    callback = RunDirectory("eq", "", WandbOptions(mode="disabled"))
    callback.run = Run(Path(path))
    fault = RuntimeError("stopped")
    callback.on_exception(SimpleNamespace(is_global_zero=True), None, fault)
    [note] = fault.__notes__
    words = ["python", "-m", "ttlightning", "fit", "--ckpt_path", path]
    assert shlex.split(note.partition("goes on with: ")[2]) == words
    assert shlex.split(command_line("fit", "--ckpt_path", Path(path))) == words


def test_commands_in_messages_are_quoted(command):
    run = command.folder / "my  run"
    run.mkdir()
    (run / "config.yaml").write_text("{}")
    said = command("rerun", "my  run", code=2).stderr
    assert_one_line(said, "it goes on with: python -m ttlightning fit --ckpt_path 'my  run'")


def test_runs_in_a_folder_whose_name_is_not_utf8(command, tmp_path):
    command.environment["TTLIGHTNING_RUNS"] = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")
    assert_one_line(command(*FIT, code=2).stderr, "r\\xff', which is not UTF-8; set $TTLIGHTNING_RUNS")
    assert not any(path.name.startswith("r") for path in tmp_path.iterdir())


def test_names_that_are_not_utf8_are_printed_as_they_are():
    code = "from ttlightning.system.output import drop_unread_output as d; d(); print('r\\udcff/0')"
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout == b"r\xff/0\n"


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_log_has_every_line_at_once(unbuffered):
    """Where nothing flushes at the end: stderr by lines as ever, with PYTHONUNBUFFERED stdout too."""
    code = "import os, sys; from ttlightning.system.output import drop_unread_output as d; d(); print('out')"
    code += "; print('err', file=sys.stderr); os._exit(0)"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("out\n" if unbuffered else "", "err\n")
