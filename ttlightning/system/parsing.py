"""jsonargparse beyond its documented interface: the text of its messages, and its private names.

Nothing else in this package depends on either. ``tests/system/test_parsing.py`` shows the messages of the installed
version, so an upgrade that changes them fails there.
"""

import argparse
import contextlib
import functools
import inspect
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace
from jsonargparse._common import denying_import_path_entry, parsing_settings

from ttlightning.errors import UserError

NOT_SERIALIZED: Final = "Unable to serialize instance"


def _first(pattern: str, message: str) -> str | None:
    match = re.search(pattern, message)
    return match and match[1]


unknown_option = functools.partial(_first, r"(?:unrecognized arguments: --|[Oo]ption ')([\w.-]+)")
"""Name of the option or config key that a parser does not know; of a class's own option without the class."""

option_of_wrong_value = functools.partial(_first, r'[Pp]arser key "([\w.]+)"')
"""Name of the option whose value a parser does not take."""

denied_import = functools.partial(_first, r"Importing '([^']+)' is not allowed")
"""Dotted path of an object that a parser was not allowed to import."""


def missing_package(fault: Exception) -> str | None:
    """What a class from a configuration needs that is not installed, such as a logger; None for another fault."""
    text = str(fault)
    if isinstance(fault, ModuleNotFoundError):
        return text.splitlines()[0]
    if isinstance(fault, ValueError) and re.search(r"pip install|No module named|[Rr]equirement '", text):
        return _first(r"Problem with given class_path '[^']+':\s+([^\n]+)", text)
    return None


def is_refused_argument(fault: Exception) -> bool:
    """Whether a class that a parser makes does not take one of its arguments, such as one in ``dict_kwargs``."""
    caller = traceback.extract_tb(fault.__traceback__)[-1].name
    return isinstance(fault, TypeError) and caller == "default_class_instantiator"


def class_made_by(factory: functools.partial[Any]) -> type | None:
    """The class of a factory that a parser has made, a partial of its own function; None for other partials."""
    is_own = getattr(factory.func, "__module__", "").startswith("jsonargparse.")
    return next((argument for argument in factory.args if is_own and inspect.isclass(argument)), None)


def option_names(parser: ArgumentParser) -> set[str]:
    """Names of all options of a parser and of its subcommands."""
    return {action.dest for each in parsers_of(parser).values() for action in each._actions}


def parsers_of(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """The parser of each subcommand by its name; the parser itself, under "", if it has none."""
    subcommands = parser._subcommands_action
    return {"": parser} if subcommands is None else dict(subcommands._name_parser_map)


def option_values(parser: ArgumentParser) -> dict[str, list[str]]:
    """Every option, such as ``--data.order``, with the values that its type lists, which numbers and paths have not."""
    return {
        option: _listed(action)
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith("+")
    }


def _listed(action: argparse.Action) -> list[str]:
    """The values of a ``Literal``, of a ``bool`` or of ``choices``, as words of a command; none of ``--x.help``."""
    if action.dest.endswith(".help"):
        return []
    kind = getattr(action, "_typehint", None)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    values = [value for one in kinds if get_origin(one) is Literal for value in get_args(one)]
    if bool in kinds:
        values += [True, False]
    return [str(value).lower() if isinstance(value, bool) else str(value) for value in action.choices or values]


def complete_yaml(parser: ArgumentParser, options: Namespace) -> str:
    """All options as YAML, from which the same options can be read.

    Raises:
        UserError: if a value has no text that gives it back, such as an object.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f"(?s).*{NOT_SERIALIZED}")
        try:
            return parser.dump(options, skip_none=False, format="yaml")
        except (Warning, ValueError) as fault:
            if NOT_SERIALIZED not in str(fault):
                raise
            raise UserError(f"{' '.join(str(fault).split())}: config.yaml could not repeat the run") from fault


def may_be_imported(path: str) -> bool:
    """Whether the rules in force allow a value to name the object at this dotted path."""
    return denying_import_path_entry(path) is None


@contextlib.contextmanager
def restored_settings(start: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Inside, the settings of ``start`` and those that are set; afterwards jsonargparse's settings from before.

    ``jsonargparse.set_parsing_settings`` can add a rule of imports and cannot take one away.
    """
    before = dict(parsing_settings)
    parsing_settings.update(start or {})
    try:
        yield
    finally:
        parsing_settings.update(before)
