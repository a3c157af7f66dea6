"""Where the secrets are that ``get_secret`` names. They are read on the engine's machine, for each
call of a handler.

A source is a function that takes what a secret is called there, and returns it as text. Those of
other packages are entry points of the group ``converge.secrets``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from converge.errors import BadInput, did_you_mean

#: The group of entry points.
ENTRY_POINTS = "converge.secrets"
#: Which sources an engine reads; all, if it is not set.
_ALLOWED = "CONVERGE_SECRET_SOURCES"
#: The largest secret, in characters.
_MOST = 1024 * 1024
# the engine's own: its database, its keys
_OWN = "CONVERGE_"

Source = Callable[[str], str]


def read_secret(reference: str, directory: str | None = None) -> str:
    """A secret.

    :param reference: ``SOURCE:NAME``.
    :param directory: where relative paths start.
    :raises BadInput: there is none; the message says why.
    """
    source, _, name = reference.partition(":")
    allowed = os.environ.get(_ALLOWED)
    if allowed is not None and source not in re.split(r"[\s,]+", allowed):
        raise BadInput(
            f"this engine does not read secrets of the source {source!r}; {_ALLOWED} names those "
            "that it does"
        )
    if source == "env":
        found: object = _of_environment(name)
    elif source == "file":
        found = _of_file(name, directory)
    else:
        sources = installed_sources()
        if source not in sources:
            known = ["env", "file", *sources]
            raise BadInput(f"there is no source of secrets {source!r}{did_you_mean(source, known)}")
        found = sources[source](name)
    if not isinstance(found, str) or not found:
        what = "is empty" if found == "" else f"is not a text but {type(found).__name__}"
        raise BadInput(f"the secret {reference} {what}")
    if len(found) > _MOST:
        raise BadInput(f"the secret {reference} has more than {_MOST:,} characters")
    return found


@cache
def installed_sources() -> Mapping[str, Source]:
    """The sources that installed packages bring, by name."""
    from stevedore import ExtensionManager

    manager: Any = ExtensionManager(ENTRY_POINTS)
    return {extension.name: extension.plugin for extension in manager}


def _of_environment(name: str) -> str:
    if name.upper().startswith(_OWN):
        raise BadInput(f"the variable {name} is the engine's own, and not for templates")
    if name not in os.environ:
        raise BadInput(f"the engine's environment has no variable {name}")
    return os.environ[name]


def _of_file(name: str, directory: str | None) -> str:
    path = os.path.join(directory or os.curdir, os.path.expanduser(name))
    try:
        with open(path, encoding="utf-8") as file:
            # one more, so that a longer one is noticed
            text = file.read(_MOST + 3)
    except OSError as error:
        raise BadInput(f"the secret's file {path!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"the secret's file {path!r} is not UTF-8 text") from None
    # editors and `echo` end a file with a line's end, which is not a part of the secret
    return text.removesuffix("\n").removesuffix("\r")
