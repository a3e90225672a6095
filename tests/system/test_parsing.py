"""The messages and private names of jsonargparse that the package depends on, as the installed version has them."""

import jsonargparse
import pytest
import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from ttlightning.errors import UserError
from ttlightning.system import parsing


class Part:
    """A class with one option."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


class Parser(ArgumentParser):
    def error(self, message, ex=None):
        raise ValueError(message)


@pytest.fixture
def parser(monkeypatch):
    """A parser with options of every kind that the package's own parsers have, which may import this file only."""
    parser = Parser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--data.size", type=int, default=1)
    parser.add_argument("--fixed", type=Part, default={"class_path": f"{__name__}.Part"})
    parser.add_subclass_arguments(Part, "part", required=False)
    with parsing.restored_settings():
        set_parsing_settings(import_path_denylist=["os"], import_path_allowlist=[__name__])
        yield parser


@pytest.mark.parametrize(
    ("words", "reader", "name"),
    [
        (["--data.length=1"], parsing.unknown_option, "data.length"),
        (["--check-only"], parsing.unknown_option, "check-only"),
        (["--config", "data: {length: 1}"], parsing.unknown_option, "data.length"),
        (["--part", f"{__name__}.Part", "--part.length=1"], parsing.unknown_option, "length"),
        (["--data.size=large"], parsing.option_of_wrong_value, "data.size"),
        (["--part=Nothing"], parsing.option_of_wrong_value, "part"),
        (["--part=os.system"], parsing.denied_import, "os.system"),
    ],
)
def test_what_a_message_names(parser, words, reader, name):
    """The real message of the installed version, in every form that the package reads."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the message is looked at below
        parser.parse_args(words)
    message = str(caught.value)
    assert reader(message) == name, f"jsonargparse {jsonargparse.__version__} says now: {message}"


def test_what_a_message_does_not_name():
    message = "Parser key \"data.size\":\n  Expected a <class 'int'>. Got value: large"
    assert parsing.unknown_option(message) is None
    assert parsing.denied_import(message) is None
    assert parsing.option_of_wrong_value("unrecognized arguments: --modes=5") is None


def test_option_names_of_a_parser_and_of_its_subcommands(parser):
    assert {"data.size", "part", "config"} <= parsing.option_names(parser)
    outer = Parser()
    outer.add_subcommands().add_subcommand("fit", parser)
    assert {"data.size", "part"} <= parsing.option_names(outer)


@pytest.mark.parametrize("name", ["fixed", "part"])
def test_an_object_without_text_is_refused(parser, name):
    options = parser.parse_args(["--data.size=3"])
    assert yaml.safe_load(parsing.complete_yaml(parser, options))["data"] == {"size": 3}
    options[name] = Part()
    with pytest.raises(UserError, match=r"config\.yaml could not repeat the run"):
        parsing.complete_yaml(parser, options)


def test_settings_are_put_back(parser):
    before = dict(parsing.parsing_settings)
    with parsing.restored_settings():
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["torch.optim"])
        assert parsing.may_be_imported("torch.optim.Adam")
        assert not parsing.may_be_imported("torch.hub.load")
    assert parsing.parsing_settings == before
    with parsing.restored_settings({"import_path_verdicts": {}}):
        assert parsing.may_be_imported("os.system")
    assert not parsing.may_be_imported("os.system")
