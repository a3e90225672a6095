"""Mask secrets in what is written down.

Three kinds of values become ``***``:

- the value of a key or option whose name asks for a secret: ``token: x``, ``--logger.api_key x``, ``password=x``;
- the password or token in a URL: ``https://ada:***@host``;
- the value of an environment variable with such a name (``$WANDB_API_KEY``, ``$PGPASSWORD``), as a whole word. It is no
  secret if it has under 8 characters, or is an ordinary word, a small number, an existing path or a name in this
  package.

Keys, names of classes and existing paths stay, so that a masked file can be read. The home folder becomes ``~``.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from ttlightning.errors import UserError
from ttlightning.system.paths import home

MASK: Final = "***"
NOUNS: Final = frozenset(
    ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS", "APIKEY", "AUTHORIZATION")
)
COMPOUNDS: Final = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "APIKEY")
"""Endings of a secret's name without a separator: PGPASSWORD, AUTHTOKEN."""
KINDS_OF_KEYS: Final = frozenset(("API", "ACCESS", "SECRET", "PRIVATE", "AUTH", "ACCOUNT", "SIGNING", "ENCRYPTION"))
"""An option called key asks for a secret only after one of these words."""

SHORTEST_SECRET: Final = 8
LONGEST_WORD: Final = 15
"""Most letters of an ordinary word; its letters are of one case."""
SHORTEST_NUMBER: Final = 12
"""Fewer digits are an ordinary number."""
SHORTEST_TOKEN: Final = 20
"""Fewer characters before the @ of a URL are a user's name."""

_URL: Final = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^/\s?#]+)@")
_INLINE: Final = re.compile(
    r"""(?P<before>(?<![\w.-])["']?(?P<name>[\w.-]*\w)["']?(?:\s*=\s*|\s*:\s+|(?<=["']):))"""
    r"""(?P<value>"[^"]*"|'[^']*'|(?:(?:Bearer|Basic)\s+)?[^\s,;&}\])"']+)"""
)
_OPTION: Final = re.compile(r"(--?[\w.-]*\w)(?:(=)(.*))?", re.DOTALL)
_ASSIGNED: Final = re.compile(r"(?P<before>(?<![\w.-])(?P<name>[\w.-]*\w)=)(?P<value>\S+?)(?=;?(?:\s|$))")
"""``name=value`` alone, for messages: ``'token': must be`` has no value."""


class Masked(NamedTuple):
    """A content without secrets, and the names of the secrets."""

    content: Any
    names: tuple[str, ...]
    """``$VARIABLE``, or the key or option of a masked value; without repetitions"""


def masked(content: Any) -> Masked:
    """``content`` (texts inside lists and dictionaries) without secrets."""
    mask = _Mask()
    result = mask.part(content, "")
    return Masked(result, tuple(dict.fromkeys(mask.names)))


def scrub(text: str) -> str:
    """A text without secrets, and with ``~`` for the home folder."""
    return str(masked(text).content)


def without_secrets(message: str) -> str:
    """A message to the user: masked, but paths as they are."""
    return _Mask(_ASSIGNED, homes=()).text(message, "")


def masked_keys(config: Any, prefix: str = "") -> list[str]:
    """Keys of a configuration whose value, or the password in it, is a mask."""
    if isinstance(config, Mapping | list | tuple):
        parts = config.items() if isinstance(config, Mapping) else enumerate(config)
        return [name for key, part in parts for name in masked_keys(part, f"{prefix}{key}.")]
    hidden = isinstance(config, str) and (config == MASK or any(MASK in url[2] for url in _URL.finditer(config)))
    return [prefix.removesuffix(".")] if hidden else []


def refuse_masked(config: Mapping[str, Any], way_out: str = "give it again: --{} ...") -> None:
    """``UserError`` if a run would use a mask as a value; W&B's labels may be masked, since they train nothing."""
    keys = masked_keys({name: part for name, part in config.items() if name != "wandb"})
    if keys:
        raise UserError(
            f"the configuration has {MASK} in place of a secret at {', '.join(keys)}, which no file keeps; "
            + way_out.format(keys[0])
        )


class _Mask:
    """One pass over a content."""

    def __init__(self, inline: re.Pattern[str] = _INLINE, homes: Sequence[str] | None = None) -> None:
        self.names: list[str] = []
        self._inlines = inline
        self._values = _secret_values()
        self._homes = _homes() if homes is None else homes

    def part(self, content: Any, place: str, secret: bool = False) -> Any:
        """``content`` masked; ``place`` is its key, and ``secret`` says that a key above asks for a secret."""
        if isinstance(content, Mapping):
            return {
                key: part if key == "class_path" else self.part(part, _below(place, key), secret or _asks(str(key)))
                for key, part in content.items()
            }
        if isinstance(content, list | tuple):
            words = self._words(content, place, secret)
            return words if isinstance(content, list) else tuple(words)
        if secret and _hides(content, place):
            return self._hide(place)
        return self.text(content, place) if isinstance(content, str) else content

    def text(self, text: str, place: str) -> str:
        if "/" in text and os.path.exists(os.path.expanduser(text)):  # noqa: PTH110, PTH111, no error for what is no path
            return self._with_home(text)
        text = _URL.sub(lambda found: self._url(found, place), text)
        text = self._inlines.sub(self._inline, text)
        for name, pattern in self._values:
            text, count = pattern.subn(MASK, text)
            self.names += [f"${name}"] * count
        return self._with_home(text)

    def _words(self, words: Sequence[Any], place: str, secret: bool) -> list[Any]:
        """A list, in which the word after an option is the option's value."""
        done: list[Any] = []
        option = ""
        for index, word in enumerate(words):
            if option and not (isinstance(word, str) and word.startswith("--")):
                done.append(self.part(word, option, _asks(option)))
                option = ""
                continue
            found = _OPTION.fullmatch(word) if isinstance(word, str) and not secret else None
            if found is None:
                inside = secret or isinstance(word, Mapping)
                done.append(self.part(word, _below(place, index) if inside else place, secret))
                continue
            name = found[1].lstrip("-")
            option = "" if found[2] else name
            done.append(f"{found[1]}={self.part(found[3], name, _asks(name))}" if found[2] else word)
        return done

    def _url(self, found: re.Match[str], place: str) -> str:
        user, colon, password = found[2].partition(":")
        has_token = len(user) >= SHORTEST_TOKEN
        if password == MASK or not (password or has_token):
            return found[0]
        self._hide(place or f"the {'password' if colon else 'token'} in a URL")
        return f"{found[1]}{MASK if has_token else user}{colon and f':{MASK}'}@"

    def _inline(self, found: re.Match[str]) -> str:
        value = found["value"]
        edge = value[0] if value[0] in "\"'" else ""
        if not _asks(found["name"]) or not _hides(value.strip("\"'"), found["name"]):
            return found[0]
        return f"{found['before']}{edge}{self._hide(found['name'].lstrip('-'))}{edge}"

    def _hide(self, name: str) -> str:
        self.names.append(name)
        return MASK

    def _with_home(self, text: str) -> str:
        for folder in self._homes:
            text = re.sub(rf"(?<![\w./-]){re.escape(folder)}(?![\w.-])", "~", text)
        return text


def _below(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)


def _name_words(name: str) -> list[str]:
    """The words of the last part of a name: API, KEY of ``trainer.apiKey``."""
    last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2])
    return [word for word in re.split(r"[^A-Za-z0-9]+", last.upper()) if word]


def _asks(name: str) -> bool:
    """Whether a key or option of this name asks for a secret: its last word decides, ``token_count`` is a count."""
    *before, last = ["", *_name_words(name)]
    is_key = last == "KEY" and not KINDS_OF_KEYS.isdisjoint(before[-1:])
    return last == "PWD" or last in NOUNS or last.endswith(COMPOUNDS) or is_key


def _hides(value: Any, name: str) -> bool:
    """Whether a value of such a name is a secret. A number is none where a token is asked for: ``max_token: 9``."""
    text = str(value)
    if text == MASK or text.lower() in ("", "true", "false", "null", "none"):
        return False
    number = re.fullmatch(r"[\d.]{1,11}", text) is not None
    return not (number and _name_words(name)[-1:] == ["TOKEN"]) and not ("/" in text and _is_path(text))


def _secret_values() -> list[tuple[str, re.Pattern[str]]]:
    """Secret variables of the environment: name, and pattern of the value as it is or in a URL; the longest first."""
    names: dict[str, str] = {}
    for name, value in os.environ.items():
        if _is_secret_variable(name) and _looks_secret(value.strip()):
            for form in (value.strip(), quote(value.strip(), safe="")):
                names.setdefault(form, name)
    return [(names[value], _whole(value)) for value in sorted(names, key=len, reverse=True)]


def _is_secret_variable(name: str) -> bool:
    words = _name_words(name.replace(".", "_"))
    nouns = {word.removesuffix("S") for word in words} | set(words)
    return bool(nouns & (NOUNS | {"KEY"})) or any(w.endswith(COMPOUNDS) for w in words) or words[1:][-1:] == ["PWD"]


def _looks_secret(value: str) -> bool:
    if len(value) < SHORTEST_SECRET or _is_path(value):
        return False
    if value.isdigit():
        return len(value) >= SHORTEST_NUMBER
    word = value.isalpha() and (value.islower() or value.isupper() or value.istitle()) and len(value) <= LONGEST_WORD
    return not word and value.casefold() not in _vocabulary()


def _is_path(value: str) -> bool:
    """Whether these are existing files, or files in existing folders other than the root, joined by colons."""
    paths = [os.path.expanduser(part) for part in value.split(os.pathsep)]  # noqa: PTH111, no error for other texts
    folders = [os.path.dirname(path) for path in paths]  # noqa: PTH120
    return all(
        os.path.exists(path) or (folder.strip("/") != "" and os.path.isdir(folder))  # noqa: PTH110, PTH112
        for path, folder in zip(paths, folders, strict=True)
    )


def _whole(value: str) -> re.Pattern[str]:
    """The value, if no letter or digit continues it."""
    before = r"(?<![^\W_])" if value[0].isalnum() else ""
    after = r"(?![^\W_])" if value[-1].isalnum() else ""
    return re.compile(f"{before}{re.escape(value)}{after}")


@functools.cache
def _vocabulary() -> frozenset[str]:
    """The words in this package's source and configs: names of classes, options, data."""
    package = Path(__file__).resolve().parents[1]
    folders = [package, package / "configs", package.parent / "configs"]
    files = [file for folder in folders for end in ("py", "yaml") for file in folder.rglob(f"*.{end}")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    words = {word for text in texts for word in (*re.findall(r"[\w./+-]+", text), *re.findall(r"\w+", text))}
    return frozenset(word.strip(".").casefold() for word in words)


def _homes() -> list[str]:
    """The home folder, also without links, unless it is the root."""
    folder = home()
    names = set() if folder is None else {str(folder), str(folder.resolve())}
    return sorted(names - {"/"}, key=len, reverse=True)
