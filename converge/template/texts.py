"""The functions that make texts: ``str_replace`` and its strict kinds, ``list_join``,
``str_split``, ``digest``."""

from __future__ import annotations

import hashlib
import json

from converge.errors import BadInput
from converge.model import Json
from converge.template.forms import Check, Pure, check_keys, check_size, misfit, takes_list
from converge.template.values import as_text, kind, show

#: Algorithms that every Python has.
ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
# Each key is searched for in the whole template.
_MOST_WORK = 2_000_000_000


def as_param(value: Json) -> str:
    """How Heat writes a value into a text: a boolean as Python does, a list or mapping as JSON
    with sorted keys."""
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return str(value) if isinstance(value, bool) else as_text(value)


def _replace_check(name: str) -> Check:
    def check(argument: Json, settled: bool) -> str | None:
        wrong = check_keys(name, argument, ("template", "params"))
        if wrong is not None:
            return wrong
        wrong = misfit(f"the template of {name}", argument["template"], settled, str)
        wrong = wrong or misfit(f"the params of {name}", argument["params"], settled, dict)
        if wrong is None and isinstance(argument["params"], dict) and "" in argument["params"]:
            wrong = f"a key in the params of {name} is empty"
        return wrong

    return check


def _replace(name: str, *, strict: bool = False, filled: bool = False) -> Pure:
    """:param strict: each key must be in the template.
    :param filled: no value may be empty.
    """

    def evaluate(argument: Json) -> str:
        template, params = argument["template"], argument["params"]
        texts = {key: as_param(value) for key, value in params.items()}
        for key, value in params.items() if filled else ():
            if value is None or value in ("", [], {}):
                raise BadInput(f"{name}: the value of {show(key)} is empty")
        if len(template) * len(texts) > _MOST_WORK:
            raise BadInput(f"{name}: {len(texts):,} keys are too many for so long a template")
        # longer keys first; what a key has put in is not looked at again
        parts: list[tuple[str, bool]] = [(template, False)]
        missing = []
        size = len(template)
        for key in sorted(sorted(texts), key=len, reverse=True):
            text = texts[key]
            split: list[tuple[str, bool]] = []
            found = 0
            for part, is_done in parts:
                if is_done or key not in part:
                    split.append((part, is_done))
                    continue
                pieces = part.split(key)
                found += len(pieces) - 1
                check_size(name, size + found * len(text))
                split.append((pieces[0], False))
                for piece in pieces[1:]:
                    split += ((text, True), (piece, False))
            size += found * len(text)
            parts = split
            if not found:
                missing.append(key)
        if strict and missing:
            shown = ", ".join(map(show, missing[:20]))
            raise BadInput(f"{name}: not in the template: {shown}")
        return "".join(part for part, _ in parts)

    return Pure(_replace_check(name), evaluate)


def _join_check(argument: Json, settled: bool) -> str | None:
    wrong = takes_list("list_join", "a delimiter, and one or more lists", 2)(argument, settled)
    if wrong is not None or not isinstance(argument, list):
        return wrong
    wrong = misfit("the delimiter of list_join", argument[0], settled, str)
    for part in argument[1:]:
        if wrong is None and misfit("", part, settled, list, type(None)) is not None:
            wrong = f"list_join joins lists, not {kind(part)}"
    return wrong


def _join(argument: Json) -> str:
    delimiter, *lists = argument
    texts = [
        json.dumps(item, sort_keys=True) if isinstance(item, dict | list) else as_text(item)
        for part in lists
        for item in part or ()
    ]
    check_size("list_join", sum(map(len, texts)) + len(delimiter) * len(texts))
    return str(delimiter.join(texts))


def _split_check(argument: Json, settled: bool) -> str | None:
    form = "a delimiter, a text, and perhaps the number of the part"
    wrong = takes_list("str_split", form, 2, 3)(argument, settled)
    if wrong is not None or not isinstance(argument, list):
        return wrong
    wrong = misfit("the delimiter of str_split", argument[0], settled, str)
    wrong = wrong or misfit("the text of str_split", argument[1], settled, str, type(None))
    if wrong is None and argument[0] == "":
        wrong = "the delimiter of str_split is empty"
    if wrong is None and len(argument) == 3:
        wrong = misfit("the number of the part in str_split", argument[2], settled, int, str)
    return wrong


def _split(argument: Json) -> Json:
    delimiter, text, *rest = argument
    if text is None:
        return None
    parts = text.split(delimiter)
    if not rest:
        return parts
    try:
        return parts[int(rest[0])]
    except ValueError:
        raise BadInput(f"the number of the part in str_split is {show(rest[0])}") from None
    except IndexError:
        raise BadInput(
            f"str_split: there is no part {rest[0]}; the text has {len(parts)}, numbered from 0"
        ) from None


def _digest_check(argument: Json, settled: bool) -> str | None:
    wrong = takes_list("digest", "an algorithm, and a text", 2, 2)(argument, settled)
    if wrong is not None or not isinstance(argument, list):
        return wrong
    wrong = misfit("the algorithm of digest", argument[0], settled, str)
    wrong = wrong or misfit("the text of digest", argument[1], settled, str)
    if wrong is None and isinstance(argument[0], str) and argument[0].lower() not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        wrong = f"digest has no algorithm {show(argument[0])}; known: {known}"
    return wrong


def _digest(argument: Json) -> str:
    algorithm, text = argument
    try:
        # as Heat does; in UTF-8, a text with an accent would have another digest
        data = text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"digest takes characters up to U+00FF, as in Heat, not {text[error.start]!r}"
        ) from None
    return hashlib.new(algorithm.lower(), data, usedforsecurity=False).hexdigest()


FUNCTIONS = {
    "str_replace": _replace("str_replace"),
    "str_replace_strict": _replace("str_replace_strict", strict=True),
    "str_replace_vstrict": _replace("str_replace_vstrict", strict=True, filled=True),
    "list_join": Pure(_join_check, _join),
    "str_split": Pure(_split_check, _split),
    "digest": Pure(_digest_check, _digest),
}
