"""Secrets are not written down: what counts as one, and how it is masked.

Three things are masked, as ``***``:

- what stands under a name that asks for a secret, in a configuration, among options, inside a text: ``token: x``,
  ``--logger.api_key x``, ``password=x``;
- the password in a URL, ``https://ada:***@host``, and a token in its place;
- the value of an environment variable that is named for one (``$WANDB_API_KEY``, ``$PGPASSWORD``), where it stands as a
  whole word. A value that has no secret's look is none: under 8 characters, an ordinary word, a small number, a path
  that exists, a name in this package.

A file must stay readable after it: names of classes, paths that exist and keys are left as they are. The home folder
is written ``~``.
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
"""Endings that no other word has: of PGPASSWORD, AUTHTOKEN."""
KINDS_OF_KEYS: Final = frozenset(("API", "ACCESS", "SECRET", "PRIVATE", "AUTH", "ACCOUNT", "SIGNING", "ENCRYPTION"))
"""An option that is called key is none of these, unless one of these stands before it."""

SHORTEST_SECRET: Final = 8
LONGEST_WORD: Final = 15
"""Letters alone, all of one case, are a word up to here."""
SHORTEST_NUMBER: Final = 12
"""Digits alone are a number below."""
SHORTEST_TOKEN: Final = 20
"""Characters before the @ of a URL without a colon: below, they are a user's name."""

_URL: Final = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^/\s?#]+)@")
_INLINE: Final = re.compile(
    r"""(?P<before>(?<![\w.-])["']?(?P<name>[\w.-]*\w)["']?(?:\s*=\s*|\s*:\s+|(?<=["']):))"""
    r"""(?P<value>"[^"]*"|'[^']*'|(?:(?:Bearer|Basic)\s+)?[^\s,;&}\])"']+)"""
)
_OPTION: Final = re.compile(r"(--?[\w.-]*\w)(?:(=)(.*))?", re.DOTALL)
_ASSIGNED: Final = re.compile(r"(?P<before>(?<![\w.-])(?P<name>[\w.-]*\w)=)(?P<value>\S+?)(?=;?(?:\s|$))")
"""What of the former a message may have: in it, ``'token': must be`` gives no value."""


class Masked(NamedTuple):
    """What may be written down, and what of it was masked."""

    content: Any
    names: tuple[str, ...]
    """each once: ``$VARIABLE``, or the key or option whose value it was; never a value"""


def masked(content: Any) -> Masked:
    """``content`` (texts inside lists and dictionaries) without secrets."""
    mask = _Mask()
    result = mask.part(content, "")
    return Masked(result, tuple(dict.fromkeys(mask.names)))


def scrub(text: str) -> str:
    """A text without secrets, and with ``~`` for the home folder."""
    return str(masked(text).content)


def scrubbed(content: Any) -> Any:
    """The same for every text inside lists and dictionaries."""
    return masked(content).content


def without_secrets(message: str) -> str:
    """A message to the user: masked, but paths as they are."""
    return _Mask(_ASSIGNED, homes=()).text(message, "")


def masked_keys(config: Any, prefix: str = "") -> list[str]:
    """The keys of a configuration that was read again whose value, or the password in it, is a mask."""
    if isinstance(config, Mapping):
        return [name for key, part in config.items() for name in masked_keys(part, f"{prefix}{key}.")]
    if isinstance(config, list | tuple):
        return [name for index, part in enumerate(config) for name in masked_keys(part, f"{prefix}{index}.")]
    hidden = isinstance(config, str) and (config == MASK or any(MASK in url[2] for url in _URL.finditer(config)))
    return [prefix.removesuffix(".")] if hidden else []


def refuse_masked(config: Mapping[str, Any], way_out: str = "give it again: --{} ...") -> None:
    """``UserError`` where a run would take a mask for a value; W&B's labels may be masked, they train nothing."""
    keys = masked_keys({name: part for name, part in config.items() if name != "wandb"})
    if keys:
        raise UserError(
            f"the configuration has {MASK} in place of a secret at {', '.join(keys)}, which no file keeps; "
            + way_out.format(keys[0])
        )


class _Mask:
    """One pass over something that is to be written down."""

    def __init__(self, inline: re.Pattern[str] = _INLINE, homes: Sequence[str] | None = None) -> None:
        self.names: list[str] = []
        self._inlines = inline
        self._values = _secret_values()
        self._homes = _homes() if homes is None else homes

    def part(self, content: Any, place: str, secret: bool = False) -> Any:
        """``secret``: whether a name above says that what stands here is one."""
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
        """A list; what follows an option in it belongs to the option."""
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
            value = self.part(found[3], name, _asks(name)) if found[2] else ""
            done.append(f"{found[1]}={value}" if found[2] else word)
        return done

    def _url(self, found: re.Match[str], place: str) -> str:
        user, colon, password = found[2].partition(":")
        if colon and password != MASK and (password or len(user) >= SHORTEST_TOKEN):
            self._hide(place or "the password in a URL")
            return f"{found[1]}{user if len(user) < SHORTEST_TOKEN else MASK}:{MASK}@"
        if not colon and len(user) >= SHORTEST_TOKEN:
            self._hide(place or "the token in a URL")
            return f"{found[1]}{MASK}@"
        return found[0]

    def _inline(self, found: re.Match[str]) -> str:
        value = found["value"]
        edge = value[0] if value[0] in "\"'" else ""
        if not _asks(found["name"]) or not _hides(value.strip("\"'"), found["name"]):
            return found[0]
        self._hide(found["name"].lstrip("-"))
        return f"{found['before']}{edge}{MASK}{edge}"

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
    """``trainer.apiKey`` as API, KEY: the words of the last part of a name."""
    last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2])
    return [word for word in re.split(r"[^A-Za-z0-9]+", last.upper()) if word]


def _asks(name: str) -> bool:
    """Whether a key or an option of this name is for a secret: its last word decides, ``token_count`` is a count."""
    words = _name_words(name)
    if not words:
        return False
    kind_of_key = words[-1] in ("KEY", "PWD") and (words[-1] == "PWD" or bool(KINDS_OF_KEYS & set(words[-2:-1])))
    return words[-1] in NOUNS or words[-1].endswith(COMPOUNDS) or kind_of_key


def _hides(value: Any, name: str) -> bool:
    """Whether a value under such a name is a secret: a number is none where a token is asked for (``max_token: 9``)."""
    if value is None or isinstance(value, bool):
        return False
    text = str(value)
    if not text or text == MASK or text.lower() in ("true", "false", "null", "none"):
        return False
    number = re.fullmatch(r"[\d.]{1,11}", text) is not None
    return not (number and _name_words(name)[-1:] == ["TOKEN"]) and not ("/" in text and _is_path(text))


def _secret_values() -> list[tuple[str, re.Pattern[str]]]:
    """Name and pattern of what the environment holds of secrets, the longest first."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        if _is_variable_for_one(name) and _looks_secret(value.strip()):
            for form in (value.strip(), quote(value.strip(), safe="")):
                found.setdefault(form, name)
    return [(found[value], _whole(value)) for value in sorted(found, key=len, reverse=True)]


def _is_variable_for_one(name: str) -> bool:
    words = _name_words(name.replace(".", "_"))
    plain = {word.removesuffix("S") for word in words} | set(words)
    return bool(plain & (NOUNS | {"KEY"})) or any(w.endswith(COMPOUNDS) for w in words) or words[1:][-1:] == ["PWD"]


def _looks_secret(value: str) -> bool:
    if len(value) < SHORTEST_SECRET or _is_path(value):
        return False
    if value.isdigit():
        return len(value) >= SHORTEST_NUMBER
    word = value.isalpha() and (value.islower() or value.isupper() or value.istitle()) and len(value) <= LONGEST_WORD
    return not word and value.casefold() not in _vocabulary()


def _is_path(value: str) -> bool:
    """Whether it names files that are there, or one in a folder that is there; several may be joined by colons."""

    def there(part: str) -> bool:
        path = os.path.expanduser(part)  # noqa: PTH111, no error for what is no path
        folder = os.path.dirname(path)  # noqa: PTH120
        return os.path.exists(path) or (folder.strip("/") != "" and os.path.isdir(folder))  # noqa: PTH110, PTH112

    return all(there(part) for part in value.split(os.pathsep))


def _whole(value: str) -> re.Pattern[str]:
    """The value where no letter or digit goes on before or after it."""
    before = r"(?<![^\W_])" if value[0].isalnum() else ""
    after = r"(?![^\W_])" if value[-1].isalnum() else ""
    return re.compile(f"{before}{re.escape(value)}{after}")


@functools.cache
def _vocabulary() -> frozenset[str]:
    """The words that this package's source and configurations are written in: names of classes, options, data."""
    package = Path(__file__).resolve().parents[1]
    folders = [package, package / "configs", package.parent / "configs"]
    files = [file for folder in folders for end in ("py", "yaml") for file in folder.rglob(f"*.{end}")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    words = {word for text in texts for word in (*re.findall(r"[\w./+-]+", text), *re.findall(r"\w+", text))}
    return frozenset(word.strip(".").casefold() for word in words)


def _homes() -> list[str]:
    """The home folder as it is named and as it is, unless it is the root."""
    found = home()
    names = set() if found is None else {str(found), str(found.resolve())}
    return sorted(names - {"/"}, key=len, reverse=True)
