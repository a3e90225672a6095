"""The Tab key, pressed in real shells, with the script that ``completion`` prints."""

import os
import re
import select
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import assert_one_line

from ttlightning.commands import WITH_TRAINER, WITHOUT_TRAINER
from ttlightning.commands.completion import options_with_trainer, options_without_trainer, script
from ttlightning.commands.studies import command_line
from ttlightning.system.parsing import parsers_of

fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))  # not on Windows
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


@pytest.fixture(scope="module")
def options():
    return {**options_with_trainer(), **options_without_trainer()}


@pytest.fixture
def folder(tmp_path: Path, options) -> Path:
    """A working directory with the scripts, two runs, a config and a certificate."""
    for run in ("runs/eq/0", "runs/my run/1"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.yaml").touch()
    for file in ("mine.yaml", "a b.json"):
        (tmp_path / file).touch()
    for shell in SHELLS:
        (tmp_path / f"words.{shell}").write_text(script(shell, options))
    return tmp_path


def completed(folder: Path, shell: str, *typed: str) -> list[str]:
    """What stands in the line after Tab, for each line, in one interactive shell on a terminal."""
    terminal, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))  # no line is broken
    environment = os.environ | {"PS1": "> ", "TERM": "dumb", "HOME": str(folder)}
    streams = {"stdin": line, "stdout": line, "stderr": line}
    process = subprocess.Popen(SHELLS[shell], cwd=folder, env=environment, start_new_session=True, **streams)
    os.close(line)

    def read_until(wanted: str) -> str:
        """The output up to this text; all of it, if the text does not come within ten seconds."""
        text, end = "", time.monotonic() + 10
        while wanted not in text and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                text += os.read(terminal, 4096).decode()
        return text

    lines = []
    try:
        os.write(terminal, f"source words.{shell}; echo read''y\n".encode())
        read_until("ready\r\n")
        for words in typed:
            # Ctrl-A and "echo " print the line, quoted by the shell, instead of running it.
            os.write(terminal, f"{words}\t\x01printf '<%s>' \x05; echo en''d\n".encode())
            lines.append(re.findall(r"((?:<[^<>\r\n]*>)+)end\r\n", read_until("end\r\n"))[-1])
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    return lines


@pytest.mark.parametrize("shell", [s if shutil.which(s) else pytest.param(s, marks=pytest.mark.skip) for s in SHELLS])
def test_tab_completes_in_a_shell(folder, shell):
    typed = {
        "ttlightning cert": "<ttlightning><certify>",
        "ttlightning fit --conf": "<ttlightning><fit><--config>",
        "ttlightning fit --config e": "<ttlightning><fit><--config><eq.yaml>",
        "ttlightning fit --config=mi": "<ttlightning><fit><--config=mine.yaml>",
        "ttlightning fit --data.order=s": "<ttlightning><fit><--data.order=snake>",
        "ttlightning fit --model.format H": "<ttlightning><fit><--model.format><HierarchicalTucker>",
        "ttlightning test --ckpt_path l": "<ttlightning><test><--ckpt_path><last>",
        "ttlightning rerun runs/e": "<ttlightning><rerun><runs/eq/0>",
        "ttlightning rerun runs/m": "<ttlightning><rerun><runs/my run/1>",
        "ttlightning verify a": "<ttlightning><verify><a b.json>",
    }
    found = [line.replace("/>", ">") for line in completed(folder, shell, *typed)]
    assert found == list(typed.values())


def test_every_option_is_in_the_script(options):
    """Of every verb; the script stays small, and so does the time that a shell takes to read it."""
    assert set(options) == set(WITH_TRAINER | WITHOUT_TRAINER)
    known = parsers_of(command_line().parser)
    for verb in WITH_TRAINER:
        own = {s for a in known[verb]._actions for s in a.option_strings if s.startswith("--") and s[-1] != "+"}
        assert {"--trust", "--model.format.rank", *own} <= set(options[verb])
    assert {"--mode_size", "--sites", "--help"} < set(options["certify"])
    text = script("bash", options)
    assert len(text) < 30_000
    for listed in options.values():
        assert all(f"{option} " in text or f'{option}"' in text for option in listed)


def test_the_script_is_valid_bash(command, options):
    printed = command("completion", "bash").stdout
    assert printed == script("bash", options)
    subprocess.run(["bash", "-n"], input=printed, text=True, check=True)


def test_another_shell_is_refused(command):
    assert_one_line(command("completion", "tcsh", code=2).stderr, "tcsh")
    assert_one_line(command("completion", code=2).stderr, "shell")
