"""Where a configuration is looked up: the working directory, its configs/, the installed package."""

from pathlib import Path
from typing import Final

import yaml

from ttlightning.errors import UserError

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def config_folders() -> list[Path]:
    """The folders in the order of the look-up. An editable install finds the package's configs beside the package."""
    folders = [Path(), Path("configs"), _PACKAGE / "configs", _PACKAGE.parent / "configs"]
    return [folder for folder in folders if folder.is_dir()]


def find_config(name: str) -> Path:
    """The file that ``name`` (a path or a bare name such as ``eq.yaml``) stands for.

    Raises:
        UserError: where it is nowhere; the message lists what there is.
    """
    for folder in config_folders():
        if (folder / name).is_file():
            return _check_yaml(folder / name)
    raise UserError(f"config {name!r} is not in {_where()}; there is: {', '.join(available_configs()) or 'none'}")


def _check_yaml(file: Path) -> Path:
    try:
        yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise UserError(f"config {file} is not YAML: {fault}") from fault
    return file


def available_configs() -> list[str]:
    """Names that ``find_config`` knows, those of whole experiments only."""
    names = {
        file.relative_to(folder).as_posix()
        for folder in config_folders()[1:]
        for file in folder.rglob("*.yaml")
        if not {"parts", "sweeps"} & set(file.parts)
    }
    return sorted(names)


def _where() -> str:
    return ", ".join(
        str(folder.absolute()) if folder.is_absolute() else f"./{folder}".removesuffix("/.")
        for folder in config_folders()
    )
