"""Where lines go."""

import sys
import types

from ttlightning.system.output import terminal


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
