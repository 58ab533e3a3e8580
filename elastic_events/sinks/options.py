"""What a sink's URL says: a path, and options after the question mark; whatever it does not know is an error."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.redact import cut_secrets

__all__ = ("LOGIN_MARKS", "Options", "file_path", "parse_duration", "parse_size", "split_url", "without_login")

_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")

#: How to write a login, for a sentence.
LOGIN_MARKS = "in a login, / ? # @ , and % are written %2F %3F %23 %40 %2C and %25"

_WORD = re.compile(r"[^\s'\"]+")
# Of what was taken for a path one slash is left.
_SCHEME = re.compile(r"(?<![A-Za-z0-9+.-])[0-9+.-]*[A-Za-z][A-Za-z0-9+.-]*://?(?!/)")
_HEADERS = re.compile(r"\b(headers=)[^&\s]+")


def split_url(text: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        ConfigError: it is none, or its login holds a mark that ends it; the sentence repeats nothing of it.
    """
    try:
        parts = urlsplit(text.strip())
    except ValueError:  # its own text repeats the login
        raise ConfigError(f"{_start(text)} cannot be read: write SCHEME://HOST:PORT; {LOGIN_MARKS}") from None
    if re.search(r"\s", parts.netloc):
        raise ConfigError(f"{_start(text)} has white space in its host or login; {LOGIN_MARKS}")
    if parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigError(f"{_start(text)} has an @ behind its host, which is written %40; {LOGIN_MARKS}")
    return parts


def _start(text: str) -> str:
    scheme, colon, _ = text.strip().partition(":")
    return f"the {scheme} URL" if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else "a sink's URL"


def without_login(text: str) -> str:
    """Return a text without the logins, tokens and headers of the URLs in it: what ends on a screen or in a log."""
    return cut_secrets(_HEADERS.sub(r"\1...", _WORD.sub(_no_login, text)))


def _no_login(word: re.Match[str]) -> str:
    """Return a word without what is between a scheme and the last @: a password may hold any mark, an @ too."""
    before, at, behind = word[0].rpartition("@")
    scheme = _SCHEME.search(before) if at else None
    return before[: scheme.end()] + behind if scheme else word[0]


class Options:
    """The options of one URL. Ask for each that the sink knows, then call `finish`: what was not asked for is an error."""

    def __init__(self, url: SplitResult) -> None:
        self.url = url
        self.known: list[str] = []
        try:
            pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        except ValueError:
            raise ConfigError(f"{self._where()}: after the ? come options as key=value, joined by &") from None
        self.values: dict[str, str] = dict(pairs)
        if len(self.values) < len(pairs):
            twice = next(key for key in self.values if sum(key == other for other, _ in pairs) > 1)
            raise ConfigError(f"{self._where()}: the option {twice!r} is given twice")

    def text(self, key: str, default: str | None = None) -> str | None:
        """Return an option as it is."""
        self.known.append(key)
        return self.values.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int | None:
        """Return an option that is a whole number, 1 or more."""
        text = self.text(key)
        if text is None:
            return default
        if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
            raise self._wrong(key, text, "a whole number, 1 or more, such as 5")
        return int(text)

    def size(self, key: str, default: int | None = None) -> int | None:
        """Return an option that is a size, in bytes."""
        text = self.text(key)
        if text is None:
            return default
        try:
            return parse_size(text)
        except ValueError:
            raise self._wrong(key, text, "a size such as 64MB, 512KiB or 1000000") from None

    def seconds(self, key: str, default: float | None = None) -> float | None:
        """Return an option that is a duration, in seconds."""
        text = self.text(key)
        if text is None:
            return default
        try:
            return parse_duration(text)
        except ValueError:
            raise self._wrong(key, text, "a duration such as 90s, 15m, 1h or 1d") from None

    def flag(self, key: str, default: bool) -> bool:
        """Return an option that is on or off."""
        text = self.text(key)
        if text is None:
            return default
        if text.lower() not in _FLAGS:
            raise self._wrong(key, text, "1 or 0")
        return _FLAGS[text.lower()]

    def finish(self) -> None:
        """Refuse what nobody asked for.

        Raises:
            ConfigError: there is such an option; the sentence lists the known ones.
        """
        unknown = sorted(set(self.values) - set(self.known))
        if unknown:
            known = f"known are {', '.join(sorted(self.known))}" if self.known else "it has none"
            raise ConfigError(f"{self._where()}: no option {unknown[0]!r}; {known}")

    def _wrong(self, key: str, text: str, wanted: str) -> ConfigError:
        return ConfigError(f"{self._where()}: {key} is {wanted}, not {text!r}")

    def _where(self) -> str:
        # Never the whole URL: it may hold a password, and this sentence ends in a log.
        return f"in the {self.url.scheme} URL"


def parse_size(text: str) -> int:
    """Return a size such as `64MB` or `512KiB` in bytes; raises `ValueError`."""
    return int(_parse(text, _SIZES))


def parse_duration(text: str) -> float:
    """Return a duration such as `90s`, `15m`, `1h` or `1d` in seconds; raises `ValueError`."""
    return _parse(text, _SECONDS)


def file_path(url: SplitResult) -> Path:
    """Return the path of `SCHEME:///relative` or `SCHEME:////absolute`, as SQLAlchemy writes them.

    Raises:
        ConfigError: there is a host, or no path.
    """
    scheme = url.scheme
    if url.netloc:
        meant = f"{url.netloc.rpartition('@')[2]}{url.path}"  # never the login
        raise ConfigError(f"{scheme}://{meant} names a host: write {scheme}:///{meant} for the file {meant}")
    path = unquote(url.path.removeprefix("/"), errors="surrogateescape")  # the bytes of a name that is no UTF-8
    if not path or path.endswith("/") or "\0" in path:
        raise ConfigError(f"{scheme}: which file? write {scheme}:///FILE, or {scheme}:////DIRECTORY/FILE from the root")
    if url.fragment:
        raise ConfigError(f"in the {scheme} URL: a # in a file's name is written %23")
    return Path(path)


def _parse(text: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units or float(match[1]) == 0:
        raise ValueError(text)
    return float(match[1]) * units[match[2].lower()]
