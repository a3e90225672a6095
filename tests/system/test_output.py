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
