"""Text to plain values: YAML or JSON, safe whatever the text is.

Both syntaxes feed the builder of :mod:`converge.template.values`; a hostile text raises a
:class:`~converge.errors.TemplateError` like any other mistake. YAML is version 1.1 as PyYAML
reads it, except that dates and numbers of base 60 (``12:30``) are text here.
"""

from __future__ import annotations

import math
import os
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from json import JSONDecodeError, JSONDecoder
from typing import Any

import yaml

from converge.errors import TemplateError
from converge.model import Json
from converge.template.values import (
    INTEGERS,
    SIZE_LIMIT,
    TOO_DEEP,
    UNSTORABLE,
    Builder,
    Document,
    show,
)

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read(path: str | os.PathLike[str], shown: str | None = None) -> Document:
    """Read a file. One whose name ends in ``.json`` must be JSON.

    :param shown: its name in messages; None: its path.
    :raises TemplateError: if it cannot be read or understood.
    """
    name = os.fspath(path) if shown is None else shown
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
            size = max(len(data), os.fstat(file.fileno()).st_size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TemplateError(f"cannot be read: {reason}", source=_shown_path(name)) from error
    if size > SIZE_LIMIT:
        raise _too_large(size, "bytes", name)
    return parse(data, name)


def parse(text: str | bytes, name: str) -> Document:
    """Parse a text. One that starts with ``{`` is JSON, or else YAML.

    :param name: what to call it in messages.
    :raises TemplateError: if it is not YAML or JSON, or exceeds a limit of this module.
    """
    if len(text) > SIZE_LIMIT:
        raise _too_large(len(text), "bytes" if isinstance(text, bytes) else "characters", name)
    if isinstance(text, bytes):
        text = _decode(text, name)
    text = text.removeprefix("\ufeff")
    bad = _UNPRINTABLE.search(text)
    if bad:
        raise TemplateError(
            f"the character {bad.group()!r} is not allowed in a template, which is text in UTF-8",
            source=name,
            line=_line_at(text, bad.start()),
        )
    document = _read_text(text, name)
    document.names_files = "get_file" in text
    return document


def _read_text(text: str, name: str) -> Document:
    must_be_json = name.lower().endswith(".json")
    if must_be_json or text.lstrip().startswith("{"):
        try:
            return _read_json(text, name)
        except _NotJsonError as error:
            if must_be_json:
                raise error.as_template_error(text, name) from None
            # a YAML mapping in braces looks the same
            try:
                return _read_yaml(text, name)
            except TemplateError as other:
                if other.message.startswith(_NOT_YAML):
                    raise error.as_template_error(text, name) from None
                raise
    return _read_yaml(text, name)


def parse_json(text: str, name: str) -> Json:
    """The value of a JSON text.

    :raises TemplateError: as :func:`parse` does.
    """
    if len(text) > SIZE_LIMIT:
        raise _too_large(len(text), "characters", name)
    try:
        document = _read_json(text, name)
    except _NotJsonError as error:
        raise error.as_template_error(text, name) from None
    for problem in document.problems:
        raise problem
    return document.value


def _too_large(size: int, unit: str, name: str) -> TemplateError:
    return TemplateError(
        f"has {size:,} {unit}; a template can have {SIZE_LIMIT:,} at most", source=name
    )


def _shown_path(name: str) -> str:
    """A file name for a message: quoted if it is not printable, cut if it is long."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= 300 else "..." + name[-297:]


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _decode(data: bytes, name: str) -> str:
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise TemplateError("is UTF-16, UTF-32 or no text; save it as UTF-8", source=name)
    try:
        return data.removeprefix(BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError(
            f"is not UTF-8: byte 0x{data[error.start]:02X} is not valid here; save it as UTF-8",
            source=name,
            line=data.count(b"\n", 0, error.start) + 1,
        ) from None


# YAML

_NOT_YAML = "is not valid YAML: "
_MERGE = "<<"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG_LINE = re.compile("^%TAG", re.MULTILINE)
_MOST_TAG_LINES = 100
_TAG = "tag:yaml.org,2002:"
_WORDS: Mapping[str, bool | None] = {
    form: value
    for words, value in (("yes true on", True), ("no false off", False), ("null", None))
    for word in words.split()
    for form in (word, word.capitalize(), word.upper())
} | {"": None, "~": None}
_INTEGER = re.compile(r"([-+]?)(?:0b([01_]+)|0x([0-9a-fA-F_]+)|(0[0-7_]+)|(0|[1-9][0-9_]*))")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
)
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def _read_yaml(text: str, name: str) -> Document:
    builder = Builder(name)
    # the parsers compare each of these with all before it
    if text.count("%TAG") > _MOST_TAG_LINES and len(_TAG_LINE.findall(text)) > _MOST_TAG_LINES:
        raise TemplateError("has too many %TAG directives; remove them", source=name)
    loader = None
    try:
        loader = _LOADER(text)
        _build_yaml(loader, builder)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _yaml_error(error, text, name) from None
    finally:
        if loader is not None:
            loader.dispose()
    return builder.document()


def _build_yaml(loader: Any, builder: Builder) -> None:
    documents = 0
    while (event := loader.get_event()) is not None:
        line = event.start_mark.line + 1
        found = type(event)
        if found is yaml.ScalarEvent:
            value = _scalar(event, builder, line)
            merge = event.implicit[0] and event.value == _MERGE
            builder.scalar(value, event.value, line, event.anchor, merge)
        elif found is yaml.MappingStartEvent:
            _check_tag(event.tag, "map", builder, line)
            builder.open({}, line, event.anchor)
        elif found is yaml.SequenceStartEvent:
            _check_tag(event.tag, "seq", builder, line)
            builder.open([], line, event.anchor)
        elif found in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
            builder.close()
        elif found is yaml.AliasEvent:
            builder.alias(event.anchor, line)
        elif found is yaml.DocumentStartEvent:
            documents += 1
            if documents > 1:
                raise builder.error("a second document starts; a template is one", line)


def _check_tag(tag: str | None, expected: str, builder: Builder, line: int) -> None:
    if tag not in (None, "!", _TAG + expected):
        shown = show("!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag)
        raise builder.error(f"the tag {shown} is not supported; write a plain value", line)


def _scalar(event: yaml.ScalarEvent, builder: Builder, line: int) -> Json:
    text: str = event.value
    if event.style == '"' and UNSTORABLE.search(text):
        raise builder.error(f"{show(text)} has a character that cannot be stored", line)
    if event.implicit[0]:
        return _plain_scalar(text, builder, line)
    tag = event.tag
    if tag in (None, "!", _TAG + "str"):
        return text
    types: dict[str, tuple[type, ...]] = {
        "null": (type(None),),
        "bool": (bool,),
        "int": (int,),
        "float": (int, float),
    }
    wanted = tag.removeprefix(_TAG)
    if wanted not in types:
        _check_tag(tag, "str", builder, line)
    value = _plain_scalar(text, builder, line)
    if not isinstance(value, types[wanted]) or (wanted != "bool" and isinstance(value, bool)):
        raise builder.error(f"{show(text)} is not a value of !!{wanted}", line)
    return float(value) if isinstance(value, int) and wanted == "float" else value


def _plain_scalar(text: str, builder: Builder, line: int) -> Json:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _NO_NUMBER.fullmatch(text):
        raise builder.error(f"JSON has no number {text}; quote it if it is text", line)
    number = _INTEGER.fullmatch(text)
    if number:
        sign, *digits = number.groups()
        for base, found in zip((2, 16, 8, 10), digits, strict=True):
            found = found and found.replace("_", "")
            if found:
                return _integer(sign + found, base, text, builder, line)
    elif _FLOAT.fullmatch(text):
        return _float(text.replace("_", ""), text, builder, line)
    return text


def _integer(digits: str, base: int, text: str, builder: Builder, line: int) -> int:
    # Python refuses some very long numbers, and is slow with others
    value = int(digits, base) if len(digits) <= 100 else 2**64
    if value not in INTEGERS:
        raise builder.error(f"the number {show(text)[1:-1]} has more than 64 bits; quote it", line)
    return value


def _float(digits: str, text: str, builder: Builder, line: int) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise builder.error(f"the number {show(text)[1:-1]} is too large; quote it", line)
    return value


def _yaml_error(error: Exception, text: str, name: str) -> TemplateError:
    if not isinstance(error, yaml.MarkedYAMLError):
        reason = " ".join(str(error).split())[:200]
        return TemplateError(f"{_NOT_YAML}{reason}", source=name)
    mark = error.problem_mark or error.context_mark
    if mark is None:  # pragma: no cover - the parser always says where
        return TemplateError(f"{_NOT_YAML}{error.problem}", source=name)
    lines = text.split("\n", mark.line + 1)
    shown = lines[mark.line] if mark.line < len(lines) else ""
    if re.match(r" *\t", shown) or "'\\t'" in (error.problem or ""):
        message = f"{_NOT_YAML}a tab is used for indentation; use spaces"
        return TemplateError(message, source=name, line=mark.line + 1)
    if "maximum nesting depth" in (error.problem or ""):
        # libyaml has its own limit since 0.2.6, and its scanner may reach it first
        return TemplateError(TOO_DEEP, source=name, line=mark.line + 1)
    message = f"{_NOT_YAML}{(error.problem or error.context or '')[:200]}"
    if error.context and error.problem:
        start = error.context_mark
        since = (
            f" that starts on line {start.line + 1}" if start and start.line != mark.line else ""
        )
        message += f" ({error.context[:100]}{since})"
    return TemplateError(message, source=name, line=mark.line + 1)


# JSON

_SPACE = re.compile(r"[ \t\r\n]*")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_JSON_WORD = re.compile(r"[A-Za-z0-9_+-]+")
_JSON_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}
_string = JSONDecoder().raw_decode


class _NotJsonError(Exception):
    def __init__(self, message: str, position: int) -> None:
        self.message = message
        self.position = position

    def as_template_error(self, text: str, name: str) -> TemplateError:
        line = _line_at(text, self.position)
        return TemplateError(f"is not valid JSON: {self.message}", source=name, line=line)


def _read_json(text: str, name: str) -> Document:
    builder = Builder(name)
    line = 1
    position = 0
    # what can come next: a value, a key, or the end of a value; and whether the list or mapping
    # can end here instead
    expected, can_end = "value", False
    while True:
        space = _SPACE.match(text, position)
        end = space.end() if space else position
        line += text.count("\n", position, end)
        position = end
        character = text[position : position + 1]
        frame = builder.stack[-1] if builder.stack else None
        if expected == "end" and frame is None:
            if character:
                raise _NotJsonError(f"{show(character)} follows the end", position)
            return builder.document()
        if not character:
            raise _NotJsonError("the text ends too early", position)
        in_mapping = frame is not None and isinstance(frame.value, dict)
        if frame is not None and can_end and character == ("}" if in_mapping else "]"):
            builder.close()
            position += 1
            expected, can_end = "end", True
        elif expected == "end":
            if character != ",":
                closing = "}" if in_mapping else "]"
                raise _NotJsonError(
                    f"',' or '{closing}' is expected, not {show(character)}", position
                )
            position += 1
            expected, can_end = ("key" if in_mapping else "value"), False
        elif expected == "key":
            if character != '"':
                raise _NotJsonError(f'a key in "" is expected, not {show(character)}', position)
            position = _json_string(text, position, builder, line)
            space = _SPACE.match(text, position)
            end = space.end() if space else position
            line += text.count("\n", position, end)
            position = end
            if text[position : position + 1] != ":":
                raise _NotJsonError("':' is expected after a key", position)
            position += 1
            expected, can_end = "value", False
        elif character in "{[":
            builder.open({} if character == "{" else [], line, None)
            position += 1
            expected, can_end = ("key" if character == "{" else "value"), True
        else:
            position = _json_scalar(text, position, builder, line)
            expected, can_end = "end", True


def _json_string(text: str, position: int, builder: Builder, line: int) -> int:
    try:
        value, end = _string(text, position)
    except JSONDecodeError as error:
        raise _NotJsonError(error.msg, error.pos) from None
    if UNSTORABLE.search(value):
        raise builder.error(f"{show(value)} has a character that cannot be stored", line)
    builder.scalar(value, value, line, None, False)
    return end


def _json_scalar(text: str, position: int, builder: Builder, line: int) -> int:
    if text[position] == '"':
        return _json_string(text, position, builder, line)
    number = _JSON_NUMBER.match(text, position)
    if number:
        digits = number.group()
        value: Json = (
            _integer(digits, 10, digits, builder, line)
            if number.group(1) is None and number.group(2) is None
            else _float(digits, digits, builder, line)
        )
        builder.scalar(value, digits, line, None, False)
        return number.end()
    found = _JSON_WORD.match(text, position)
    word = found.group() if found else text[position]
    if word in ("NaN", "Infinity", "-Infinity"):
        raise builder.error(f"JSON has no number {word}", line)
    if word not in _JSON_WORDS:
        raise _NotJsonError(f"a value is expected, not {show(word)}", position)
    builder.scalar(_JSON_WORDS[word], word, line, None, False)
    return position + len(word)
