"""``get_file``: the contents of files, put in when a template is read.

So what is stored of a template needs no files, and a changed file is a changed template.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from converge.errors import TemplateError
from converge.model import Json
from converge.template.functions import FILE, function_of
from converge.template.values import SIZE_LIMIT, UNSTORABLE, Document, Spot, kind, show


def put_in_files(document: Document, directory: str) -> None:
    """Replace each ``get_file`` in a document by the content of its file.

    :param directory: the template's folder; no other file is read.
    :raises TemplateError: if a file is not in it, or cannot be read, or they are too large.
    """
    contents: dict[str, str] = {}
    size = 0
    for parent, key, argument, spot in _uses(document):
        if not isinstance(argument, str):
            message = f"{FILE} takes the path of a file as a plain string, not {kind(argument)}"
            raise document.error(message, spot)
        if argument not in contents:
            contents[argument] = _read(document, directory, argument, spot)
        size += len(contents[argument])
        if size > SIZE_LIMIT:
            message = f"the files of {FILE} have more than {SIZE_LIMIT:,} characters together"
            raise document.error(message, spot)
        parent[key] = contents[argument]


def _uses(document: Document) -> Iterator[tuple[Json, str | int, Json, Spot]]:
    """Each ``get_file``: what it is in, under which key, its argument and its place."""
    stack: list[tuple[Json, Spot]] = [(document.value, document.spot)]
    while stack:
        value, spot = stack.pop()
        if isinstance(value, dict):
            parts: list[tuple[str | int, Json]] = list(value.items())
        else:
            parts = list(enumerate(value)) if isinstance(value, list) else []
        for key, part in reversed(parts):
            place = spot.child(key)
            function = function_of(part)
            if function is not None and function[0] == FILE:
                yield value, key, function[1], place.child(FILE)
            elif isinstance(part, dict | list):
                stack.append((part, place))


def locate(document: Document, directory: str, path: str, spot: Spot, what: str) -> str:
    """The real path of a file that a document names.

    :param directory: the template's folder.
    :param what: what names it, for messages.
    :raises TemplateError: it is not in that folder, or there is none.
    """

    def wrong(why: str) -> TemplateError:
        return document.error(f"{what}: {show(path)} {why}", spot)

    if "://" in path:
        raise wrong("is a URL; copy what it leads to beside the template")
    root = os.path.realpath(directory)
    try:
        # a link may lead anywhere
        real = os.path.realpath(os.path.join(root, path))
        if os.path.isabs(path) or not real.startswith(os.path.join(root, "")):
            raise wrong("is not in the folder of the template, or leads out of it")
        if not os.path.isfile(real):
            raise wrong("is not a file" if os.path.exists(real) else "does not exist")
    except (OSError, ValueError) as error:
        if isinstance(error, TemplateError):
            raise
        raise wrong(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return real


def _read(document: Document, directory: str, path: str, spot: Spot) -> str:
    def wrong(what: str) -> TemplateError:
        return document.error(f"{FILE}: {show(path)} {what}", spot)

    real = locate(document, directory, path, spot, FILE)
    try:
        with open(real, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise wrong("is not text in UTF-8") from None
        raise wrong(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > SIZE_LIMIT:
        raise wrong(f"has more than {SIZE_LIMIT:,} bytes")
    if UNSTORABLE.search(text):
        raise wrong("has a character that cannot be stored")
    return text
