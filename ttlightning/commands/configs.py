"""Look up a config: in the working directory, its configs/, the installed package."""

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
    """The file of a config given by path or by bare name, such as ``eq.yaml``.

    Raises:
        UserError: if there is no such file, or it is not YAML.
    """
    for file in (folder / name for folder in config_folders()):
        if file.is_file():
            try:
                yaml.safe_load(file.read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as fault:
                raise UserError(f"config {file} is not YAML: {fault}") from fault
            return file
    folders = (f if f.is_absolute() else f"./{f}".removesuffix("/.") for f in config_folders())
    where, names = ", ".join(map(str, folders)), ", ".join(available_configs()) or "none"
    raise UserError(f"config {name!r} is not in {where}; there is: {names}")


def available_configs() -> list[str]:
    """Names of the experiments' configs that ``find_config`` knows."""
    names = {
        file.relative_to(folder).as_posix()
        for folder in config_folders()[1:]
        for file in folder.rglob("*.yaml")
        if not {"parts", "studies", "sweeps"} & set(file.parts)
    }
    return sorted(names)
