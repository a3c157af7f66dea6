"""Hides secrets, of URLs and of hidden parameters, in whatever text they turn up.

A driver may quote a part of a URL in an exception, and a handler may raise it again. So whatever
opens a URL registers its secrets here, and whatever puts foreign text into a message, a row or a
log hides them. The values of a template's hidden parameters are hidden only in what is shown of
its stack: see :class:`Secrets`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

STARS = "***"
#: Options of URLs whose values are shown. All others may be secrets, or contain some.
SEEN = frozenset(
    [
        "charset",
        "username",
        "service",
        "passfile",
        "sslkey",
        "sslcert",
        "sslrootcert",
        "ssl_key",
        "ssl_cert",
        "ssl_ca",
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_ca_certs",
        "read_default_file",
        "connect_timeout",
        "read_timeout",
        "write_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "sslmode",
        "ssl_check_hostname",
        "target_session_attrs",
        "host",
        "port",
        "user",
        "dbname",
        "database",
        "application_name",
        "timeout",
        "mode",
        "cache",
        "uri",
        "db",
        "protocol",
        "prefix",
        "socket_timeout",
        "socket_connect_timeout",
        "health_check_interval",
        "max_connections",
        "autocommit",
        "gssencmode",
        "channel_binding",
        "pool_mode",
        "prepare_threshold",
        "wsrep_sync_wait",
    ]
)
# a shorter secret is hidden only where it is a whole word: most texts contain all its letters
SHORT = 4
# what stands where a text was cut
_CUT = re.compile(r"\.\.\.|\[\.\.\.\] ")
_PLACE = re.compile(r"[\w.,/+\\-]*")

_lock = threading.Lock()
_forms: set[str] = set()
_pattern: re.Pattern[str] | None = None


def learn(secrets: Iterable[str | None], seen: Iterable[str | None] = ()) -> None:
    """Hide these from now on, however they are written.

    :param seen: what is shown of the same URL: a secret that equals it is not hidden.
    """
    global _pattern
    known = {one.casefold() for one in seen if one}
    new = {
        form
        for secret in secrets
        if secret and secret != STARS and secret.casefold() not in known
        for form in _ways_to_write(secret)
    }
    with _lock:
        if new <= _forms:
            return
        _forms.update(new)
        _pattern = _compile(_forms)


def _compile(forms: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile("|".join(map(_expression, longest_first)), re.IGNORECASE)


def _ways_to_write(secret: str) -> Iterable[str]:
    for text in {secret, unquote(secret), unquote_plus(secret)}:
        # a lone surrogate has no bytes to be quoted
        safe = text.encode("utf-8", "replace").decode()
        yield from (text, quote(safe, safe=""), quote(safe), quote(safe, safe=" +"))
        yield from (quote_plus(safe), repr(text)[1:-1], json.dumps(text)[1:-1], ascii(text)[1:-1])
        # as PostgreSQL's library writes it
        yield re.sub(r"([\\'])", r"\\\1", text)


def _expression(form: str) -> str:
    escaped = re.escape(form)
    return rf"(?<!\w){escaped}(?!\w)" if len(form) < SHORT else escaped


def hide(text: str) -> str:
    """The text with ``***`` in place of all known secrets."""
    return text if _pattern is None else _pattern.sub(STARS, text)


class Secrets:
    """Values that are hidden in what is shown of one stack.

    :param values: JSON values. In a list or mapping each value is a secret, and so is each line
        of a text; true, false and null are not.
    :param least: how many characters a secret has; shorter ones are not hidden.
    """

    def __init__(self, values: Iterable[Any], least: int = 1) -> None:
        found = {text for value in values for text in _texts(value) if len(text) >= least}
        self._values = found | {line for text in found for line in _lines(text)}
        forms = {form for secret in self._values for form in _ways_to_write(secret)}
        self._pattern = _compile(forms) if forms else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def hide(self, text: str) -> str:
        """The text with ``***`` in place of these and of the secrets of URLs."""
        text = hide(text)
        return text if self._pattern is None else self._hide_rests(self._pattern.sub(STARS, text))

    def _hide_rests(self, text: str) -> str:
        """Hide what is left of a secret after the place where a text was cut."""
        for cut in reversed(list(_CUT.finditer(text))):
            start = cut.end()
            rest = max((self._rest(text, start, one) for one in self._values), default=0)
            if rest:
                text = text[:start] + STARS + text[start + rest :]
        return text

    @staticmethod
    def _rest(text: str, start: int, secret: str) -> int:
        """How many characters of the text, from ``start`` on, are the end of a secret."""
        head = text[start : start + SHORT]
        at = secret.find(head, 1) if len(head) == SHORT else -1
        while at > 0:
            if text.startswith(secret[at:], start):
                return len(secret) - at
            at = secret.find(head, at + 1)
        return 0

    def hide_in_json(self, value: Any) -> Any:
        """The JSON value with ``***`` in place of these."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(STARS, value)
        if isinstance(value, list):
            return [self.hide_in_json(one) for one in value]
        if isinstance(value, dict):
            return {key: self.hide_in_json(one) for key, one in value.items()}
        if isinstance(value, int | float) and not isinstance(value, bool):
            return STARS if str(value) in self._values else value
        return value

    def found_in(self, value: Any) -> list[str]:
        """What of these is in a JSON value, as it is written there; each once, sorted."""
        found: set[str] = set()
        stack = [value]
        while stack and self._pattern is not None:
            one = stack.pop()
            if isinstance(one, list | dict):
                stack += one.values() if isinstance(one, dict) else one
            elif isinstance(one, str):
                found.update(self._pattern.findall(one))
            elif not isinstance(one, bool) and str(one) in self._values:
                found.add(str(one))
        return sorted(found)


def _texts(value: Any) -> Iterable[str]:
    """The secrets in a JSON value, as texts."""
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _lines(text: str) -> Iterable[str]:
    # a text may be shown with its lines indented, or only some of them
    lines = (line.strip() for line in text.splitlines())
    return (line for line in lines if len(line) >= SHORT)


# what Python's own exceptions keep outside of their arguments
_INSIDE = ("strerror", "filename", "filename2")


def hide_in(error: BaseException) -> None:
    """Hide all known secrets in an exception and in those that led to it: a traceback prints
    them all."""
    if _pattern is None:
        return
    todo: list[BaseException | None] = [error]
    done: set[int] = set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in done:
            continue
        done.add(id(one))
        for name in _INSIDE:
            value = getattr(one, name, None)
            if isinstance(value, str) and hide(value) != value:
                setattr(one, name, hide(value))
        for name, value in list(vars(one).items()):
            if isinstance(value, BaseException):
                todo.append(value)
            elif name == "__notes__":
                value[:] = [hide(str(note)) for note in value]
            elif isinstance(value, str) and hide(value) != value:
                setattr(one, name, hide(value))
        args = tuple(hide(value) if isinstance(value, str) else value for value in one.args)
        if args != one.args:
            one.args = args
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions


def learn_options(options: Iterable[tuple[str, str]], seen: Iterable[str | None]) -> None:
    """Hide from now on what is secret among a URL's options.

    :param seen: what is shown of the same URL.
    """
    options = list(options)
    secret = [value for name, value in options if is_secret(name)]
    if secret:
        # a secret that was not percent-encoded looks like several options
        others = (one for one in options if one[0].lower() not in SEEN and not is_secret(one[0]))
        secret += [part for one in others for part in one if len(part) >= SHORT]
    learn(secret, seen)


def learn_words(words: Iterable[str]) -> None:
    """Hide from now on what may be a secret in the words of a command line: a URL may be in the
    wrong place, or mistyped so that it does not look like one."""
    for word in words:
        before, _, after = word.rpartition("@")
        scheme, _, rest = before.partition("://")
        parts = (rest or scheme).split(":")
        # a password may have colons itself
        found = [":".join(parts[count:]) for count in range(1, len(parts))]
        learn(found, [scheme, parts[0], *re.split("[:/?]", after)])
        if not before and "://" in word:
            # what is not a port may be a password without its host
            place = re.split("[/?]", word.partition("://")[2])[0]
            learn(one for one in place.split(":")[1:] if not one.isdigit())
        options = re.split("[?&]", word)[1:]
        learn(one.partition("=")[2] for one in options if is_secret(one))


def is_secret(option: str) -> bool:
    """Whether an option of a URL, ``NAME=VALUE``, is one whose value is known to be a secret."""
    return _SECRET.search(option.partition("=")[0]) is not None


def show_place(text: object) -> str:
    """What should be a URL and is not, for a message, without anything that may be secret."""
    if not isinstance(text, str):
        return f"an object of the type {type(text).__name__}"
    if _PLACE.fullmatch(text):
        return repr(text)
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text)
    return f"'{scheme.group()}{STARS}'" if scheme else "what was given"


def show_options(options: Iterable[tuple[str, str]]) -> str:
    """The options of a URL for a message, with a question mark where there are any."""
    shown = []
    for name, value in options:
        if name.lower() in SEEN and "@" not in value:
            shown.append(f"{name}={value}")
        elif name.lower() in _NAMED:
            shown.append(f"{name}={STARS}")
        else:
            # a secret that was not percent-encoded may look like another option
            shown.append(STARS)
    return "?" + "&".join(shown) if shown else ""


#: Options whose names are shown, and not their values.
_NAMED = frozenset(
    ["password", "passwd", "sslpassword", "ssl_password", "ssl_key_password", "options"]
)
# also options that are mistyped, or of drivers that are not known here
_SECRET = re.compile("pass?w|pwd|secret|token|^options$", re.IGNORECASE)
