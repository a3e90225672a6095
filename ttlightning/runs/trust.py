"""Which classes a configuration inside a checkpoint or a run directory may name, and so import and call.

To resolve a class path is to import a module, and an import runs code. A configuration that the user names with
``--config`` is trusted. A configuration inside a checkpoint or a run directory is not: it may name the classes listed
here and the names given with ``--trust``. jsonargparse makes the check when it resolves a name, before any import, so
that it covers class paths, functions, nested files and nested text.
"""

import contextlib
import inspect
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import yaml
from jsonargparse import set_parsing_settings

from ttlightning.errors import UserError
from ttlightning.formats import NAMES
from ttlightning.runs.masking import MASK
from ttlightning.system.parsing import denied_import, may_be_imported, parsing_settings, restored_settings

OPTION: Final = "--trust"

LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, in C where PyYAML has it, as jsonargparse does; a comparison reads thousands of configurations."""

NETWORKS: Final = ("PatchFeatureMap", "ByteFeatureMap", "Pixels", *NAMES)

LISTED: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("ttlightning", "torch.nn.Module", NETWORKS),
    ("ttlightning.networks.baselines", "torch.nn.Module", ("CNN", "LSTM", "MLP", "LogisticRegression")),
    ("ttlightning.data.augmentation", "builtins.object", ("Augmentation",)),
    ("ttlightning.optim", "torch.optim.Optimizer", ("CoreMuon",)),
    ("torch.optim", "torch.optim.Optimizer", ()),
    ("torch.optim.lr_scheduler", "torch.optim.lr_scheduler.LRScheduler", ()),
    ("torch.optim.swa_utils", "torch.optim.lr_scheduler.LRScheduler", ("SWALR",)),
    ("lightning.pytorch.cli", "torch.optim.lr_scheduler.LRScheduler", ("ReduceLROnPlateau",)),
    ("lightning.pytorch.callbacks", "lightning.pytorch.Callback", ()),
    ("lightning.pytorch.loggers", "lightning.pytorch.loggers.Logger", ("CSVLogger", "TensorBoardLogger")),
    ("lightning.pytorch.profilers", "lightning.pytorch.profilers.Profiler", ("AdvancedProfiler",
     "PassThroughProfiler", "PyTorchProfiler", "SimpleProfiler")),
    ("lightning.pytorch.strategies", "lightning.pytorch.strategies.Strategy", ("DDPStrategy", "SingleDeviceStrategy")),
    ("lightning.pytorch.plugins", "lightning.pytorch.plugins.Precision", ("DoublePrecision", "HalfPrecision",
     "MixedPrecision")),
)  # fmt: skip
"""Module, base class and names; without names, all public subclasses in the module. None of these classes calls, sends
or unpickles a value of a configuration."""

IN_PYTHON: Final = "load it with trust={names}"
"""What Python's functions say instead of the command's option."""

LONGEST: Final = 1_000_000
"""Characters of a configuration; a complete one has about 3,000."""

DEEPEST: Final = 50
"""Levels of a configuration; a complete one has 6."""

_BY_DEFAULT: Final = dict(parsing_settings)


class NotTrusted(UserError):
    """A configuration names classes or functions that it may not name."""

    def __init__(self, *names: str, source: str = "a configuration", way: str = "add{option}") -> None:
        self.names = names
        what = "what it is" if len(names) == 1 else "what they are"
        way = way.format(option=option_for(names), names=list(names))
        super().__init__(f"{source} names {' and '.join(names)}, which would be run: if you know {what}, {way}")


class ForeignConfig(str):
    """Text of a configuration from a checkpoint or a run directory; ``source`` is the file that held it."""

    source: str

    def __new__(cls, text: Any, source: Path) -> "ForeignConfig":
        """Check that ``text`` is a mapping in plain YAML without addresses; ``UserError`` if not."""
        if not isinstance(text, str):
            raise UserError(f"the configuration in {source} is of type {type(text).__name__}, it must be text")
        # An address in W&B's notes is text; a masked one is refused by ``refuse_masked``, which says how to go on.
        parts = {name: part for name, part in read_mapping(text, source).items() if name != "wandb"}
        for value in filter(lambda value: isinstance(value, str), _values(parts)):
            if "://" in value and MASK not in value:  # Lightning would create a folder at the address
                raise UserError(f"the configuration in {source} has the address {value}: give it with an option")
        config = super().__new__(cls, text)
        config.source = str(source)
        return config


def read_mapping(text: str, source: Path) -> dict[str, Any]:
    """The mapping in a configuration's text.

    Raises:
        UserError: if the text is no mapping, too large, too deep, or has aliases, which can expand without limit.
    """
    if len(text) > LONGEST:
        raise UserError(f"the configuration in {source} has {len(text):,} characters, at most {LONGEST:,} are read")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                raise UserError(f"the configuration in {source} has aliases or over {DEEPEST} levels: it is not read")
        content = yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, ValueError) as fault:
        if isinstance(fault, UserError):
            raise
        raise UserError(f"the configuration in {source} is not YAML: {' '.join(str(fault).split())[:120]}") from fault
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"the configuration in {source} is no mapping of names to values")
    return content


def config_text(file: Path) -> str:
    """The text of a configuration file; ``UserError`` if the file cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as fault:
        raise UserError(f"{file} cannot be read as text: {fault}") from fault


def take_trusted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command without ``--trust``, and the names given with it."""
    rest: list[str] = []
    names: list[str] = []
    left = iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if option == OPTION:
            names += (value if equals else next(left, "")).split(",")
        else:
            rest.append(word)
    return rest, names


@contextlib.contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """Inside, a configuration may also name these modules, classes and functions, and their members.

    A value of type Any stays plain data, and an import from jsonargparse's own list of refused modules (os, subprocess,
    pickle, ...) is an error instead of a warning.

    Raises:
        UserError: if a name cannot be imported, or may never be trusted.
    """
    paths = [path for name in names for path in _paths(_find(name), name)]
    with restored_settings():
        set_parsing_settings(
            instantiate_subclass_spec_in_any=False, import_path_denylist=[], import_path_allowlist=paths
        )
        yield


@contextlib.contextmanager
def only_listed(content: Any, names: Iterable[str]) -> Iterator[None]:
    """Inside, jsonargparse resolves listed classes and these trusted names only.

    Raises:
        NotTrusted: if a class path in ``content``, at any level, is neither.
    """
    with trusting(names), _refusing_what_is_not_listed(content):
        yield


def import_trusted(name: str, names: Iterable[str], source: str) -> Any:
    """The object called ``name``, imported only if it, or what it is in, is one of the trusted ``names``.

    Raises:
        NotTrusted: if it is not.
        UserError: if it cannot be imported.
    """
    if not any(f"{name}.".startswith(f"{trusted}.") for trusted in names):
        raise NotTrusted(name, source=source)
    return _find(name)


def listed_networks() -> list[str]:
    """Names of this package's feature maps, formats and baselines."""
    return _listed(LISTED[:2])


def check_foreign(parser: Any, words: Sequence[str]) -> None:
    """Parse each ``ForeignConfig`` among the words of a command by itself; only listed names are allowed in it.

    A name that is also the value of an option is the user's own, and allowed.

    Raises:
        NotTrusted: with the names that are not allowed, before one of them is imported.
    """
    own = {word.partition("=")[2] if word.startswith("-") else word for word in words}
    for config in words:
        if isinstance(config, ForeignConfig):
            try:
                _read_with_trust(parser, words[0], config, [], own)
            except NotTrusted as refused:
                names = [name for name in refused.names if name not in own]
                raise NotTrusted(*(names or refused.names), source=f"the configuration in {config.source}") from refused


def names_to_trust(parser: Any, command: str, config: str) -> list[str]:
    """Names in a run's configuration that are not listed: ``--trust`` needs them when the configuration is read again.

    After another mistake these are the names before it; the next reader of the configuration reports the mistake.
    """
    names: list[str] = []
    with restored_settings(_BY_DEFAULT), contextlib.suppress(UserError):
        _read_with_trust(parser, command, config, names)
    return names


def _read_with_trust(
    parser: Any, command: str, config: str, names: list[str], allowed: Container[str] | None = None
) -> None:
    """Parse a configuration, and add refused names to ``names``; ``NotTrusted`` at one that is not allowed."""
    while True:
        try:
            with trusting(names):
                return _read_alone(parser, command, config)
        except NotTrusted as refused:
            if any(name in names or (allowed is not None and name not in allowed) for name in refused.names):
                raise
            names += refused.names


def _read_alone(parser: Any, command: str, config: str) -> None:
    """Parse a configuration."""
    with _refusing_what_is_not_listed(yaml.safe_load(config)):
        parser.parse_args([command, "--config", str(config)])


@contextlib.contextmanager
def _refusing_what_is_not_listed(content: Any) -> Iterator[None]:
    """jsonargparse checks values that must be classes; the loop checks class paths anywhere."""
    with restored_settings():
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=_listed())
        classes = (value.get("class_path") for value in _values(content) if isinstance(value, dict))
        dotted = (name for name in classes if isinstance(name, str) and "." in name)
        if names := [name for name in dict.fromkeys(dotted) if not may_be_imported(name)]:
            raise NotTrusted(*names)
        yield


def _values(content: Any) -> Iterator[Any]:
    """``content`` and all values inside it, at every level."""
    yield content
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _values(part)


def option_for(names: Sequence[str]) -> str:
    """`` --trust a.B,c.D``; empty without names."""
    return f" {OPTION} {','.join(names)}" if names else ""


def refused_names(message: str, fault: BaseException | None) -> Sequence[str]:
    """The names that were refused, from a cause of ``fault`` or, one of them, from jsonargparse's message."""
    while fault is not None:
        if isinstance(fault, NotTrusted):
            return fault.names
        fault = fault.__cause__ or fault.__context__
    name = denied_import(message)
    return [] if name is None else [name]


@cache
def _listed(rows: tuple[tuple[str, str, tuple[str, ...]], ...] = LISTED) -> list[str]:
    """Every listed class, by its listed name and by the name where it is defined."""
    paths = []
    for module_name, base, names in rows:
        module = import_module(module_name)
        for name in names or getattr(module, "__all__", dir(module)):
            member = getattr(module, name)
            if not name.startswith("_") and inspect.isclass(member) and issubclass(member, _find(base)):
                paths += _paths(member, f"{module_name}.{name}")
    return paths


def _find(name: str) -> Any:
    """The module, class or function of this name, imported."""
    module, _, attribute = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{OPTION} has {name!r}, it must be names such as mypackage.MyFormat, with commas between them")
    if name.partition(".")[0] == "jsonargparse":
        raise UserError(f"{OPTION} has {name!r}, which decides what may be named: it is never trusted")
    try:
        return import_module(name)
    except ModuleNotFoundError as fault:
        if not (fault.name and f"{name}.".startswith(f"{fault.name}.")):
            raise UserError(f"{OPTION} has {name}, which cannot be imported: {fault}") from fault
    try:
        return getattr(_find(module) if module else None, attribute)
    except AttributeError as fault:
        raise UserError(f"{OPTION} has {name}, which does not exist here") from fault


def _paths(member: Any, name: str) -> list[str]:
    """``name``, and the name where the object is defined: jsonargparse checks both."""
    defined = f"{getattr(member, '__module__', '')}.{getattr(member, '__qualname__', '')}"
    both = (inspect.isclass(member) or inspect.isroutine(member)) and all(p.isidentifier() for p in defined.split("."))
    return [name, defined] if both else [name]
