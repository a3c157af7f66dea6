"""From a message of a bus to a notification, whatever the message is.

:func:`parse` either returns a :class:`Notification` or raises :class:`Refused`, which says why; it
raises nothing else. A message is refused if its body

- is larger than the limit, not UTF-8, not JSON, no object, or nested too deeply;
- lacks its id, event type, timestamp or payload, or one of them is of another type;
- has a timestamp that is too far in the future or too long ago.

Of a key that is given twice, the last value counts. Fields
that are not known are ignored.

**Versioned notifications.** An object with the keys ``nova_object.data`` and ``nova_object.name``
(or ``ironic_object.…`` and so on: any word before ``_object``) stands for its data: it is replaced
by the value of ``….data``, wherever in the payload it is, and the other keys of the envelope are
dropped. The event type stays as it was sent.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

from converge.canonical import dump
from converge.model import NAME_LENGTH, Json

#: Characters that a database, or UTF-8, cannot store in a name.
_UNSTORABLE = re.compile("[\ud800-\udfff]")
_ENVELOPE = "oslo.message"
_CONTEXT = "_context_"
_OPENING = re.compile(r"[\[{]")
#: What a number has that may be too large for a float.
_HUGE = re.compile(r"[eE]\+?0*[1-9]\d\d|\d{300}")
_YEAR = 31_556_952.0


class Reason(StrEnum):
    """Why a message, an event or a step's work is a dead letter."""

    TOO_LARGE = "too_large"
    ENCODING = "encoding"
    NOT_JSON = "not_json"
    NOT_OBJECT = "not_object"
    TOO_DEEP = "too_deep"
    MISSING = "missing"
    WRONG_TYPE = "wrong_type"
    TOO_LONG = "too_long"
    FUTURE = "future"
    ANCIENT = "ancient"
    #: the store does not take the event
    REJECTED = "rejected"
    #: a definition does not fit the notification
    DEFINITION = "definition"
    #: a step or publisher has failed for good
    STEP = "step"


class Refused(Exception):
    """A message is no notification, or something of it is refused.

    :ivar reason: which rule it breaks.
    :ivar definition: what tells the meter definition that it does not fit from all others.
    """

    def __init__(self, reason: Reason, message: str, definition: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.definition = definition


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted.

    :ivar size: bytes of a body.
    :ivar depth: how deep lists and objects may be nested, the body itself being the first; at most
        200.
    :ivar ahead: seconds by which a timestamp may be in the future.
    :ivar age: seconds by which it may be in the past.
    """

    size: int = 1024 * 1024
    depth: int = 50
    ahead: float = 86_400.0
    age: float = 10 * _YEAR


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a bus hands it over.

    :ivar body: bytes or text as they came, or the object that a driver has made of them.
    :ivar headers: what the bus says beside the body; kept with a dead letter.
    :ivar priority: that of the queue, if the body does not say.
    :ivar fallback_id: the message id, if the body has none: for a source that has a repeatable one,
        such as the line of a file. Without it, such a message is refused.
    :ivar fallback_time: the timestamp, if the body has none: seconds since 1970.
    """

    body: bytes | str | Mapping[str, Any]
    headers: Mapping[str, Json] = field(default_factory=dict)
    priority: str | None = None
    fallback_id: str | None = None
    fallback_time: float | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification.

    :ivar at: when it was sent: seconds since 1970.
    :ivar payload: with versioned objects unwrapped.
    :ivar context: what the sender said of the request, without ``_context_``.
    """

    message_id: str
    event_type: str
    publisher_id: str
    priority: str
    at: float
    payload: Mapping[str, Json]
    context: Mapping[str, Json]

    def as_body(self) -> dict[str, Json]:
        """What JSON paths of definitions look at."""
        moment = datetime.fromtimestamp(self.at, UTC).isoformat()
        return {
            "message_id": self.message_id,
            "event_type": self.event_type,
            "publisher_id": self.publisher_id,
            "priority": self.priority,
            "timestamp": moment,
            "payload": self.payload,
            "ctxt": self.context,
            "metadata": {"message_id": self.message_id, "timestamp": moment},
        }


def parse(message: Message, now: float, limits: Limits = Limits()) -> Notification:
    """The notification of a message.

    :param now: the time, in seconds since 1970, that timestamps are compared with.
    :raises Refused: it is none.
    """
    body = _read(message.body, limits)
    if _ENVELOPE in body:
        inner = body[_ENVELOPE]
        if not isinstance(inner, str | dict):
            raise _wrong(_ENVELOPE, "an object or its text", inner)
        body = _read(inner, limits)
    metadata = _take(body, "metadata", dict, {})
    message_id = _name(body, metadata, "message_id", message.fallback_id)
    event_type = _name(body, {}, "event_type", None)
    payload = _take(body, "payload", dict, None)
    if payload is None:
        raise Refused(Reason.MISSING, "it has no payload; an object is expected")
    priority = _short(_take(body, "priority", str, None) or message.priority or "info", "priority")
    return Notification(
        message_id,
        event_type,
        _short(_take(body, "publisher_id", str, None) or "", "publisher_id"),
        priority.upper(),
        _timestamp(body, metadata, message.fallback_time, now, limits),
        unwrap(payload),
        _context(body),
    )


def raw_text(message: Message, limit: int) -> dict[str, Json]:
    """The body of a message as JSON that any database can keep, for a dead letter.

    :param limit: bytes of it that are kept.
    :returns: ``text``, or ``base64`` if it is not text; if it is cut, with ``size``, in bytes, and
        ``sha256`` of the whole, which tells it from others that begin in the same way.
    """
    body = message.body
    if isinstance(body, Mapping):
        try:
            body = dump(body)
        except (TypeError, ValueError, RecursionError):
            body = repr(body)
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    cut: dict[str, Json] = {}
    if len(data) > limit:
        cut = {"size": len(data), "sha256": sha256(data).hexdigest()}
    data = data[:limit]
    try:
        return {"text": data.decode("utf-8"), **cut}
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode("ascii"), **cut}


def unwrap(value: Json) -> Any:
    """A payload with each versioned object replaced by its data.

    :param value: of limited depth.
    """
    if isinstance(value, dict):
        data = _data_of(value)
        if data is not None:
            return unwrap(data)
        return {key: unwrap(one) for key, one in value.items()}
    if isinstance(value, list):
        return [unwrap(one) for one in value]
    return value


def _data_of(value: dict[str, Json]) -> dict[str, Json] | None:
    """The data of a versioned object; None if it is none."""
    if 2 <= len(value) <= 5:
        for key, data in value.items():
            head, dot, tail = key.rpartition(".")
            if dot and tail == "data" and head.endswith("_object") and f"{head}.name" in value:
                return data if isinstance(data, dict) else None
    return None


def parse_time(text: str) -> float:
    """A time in ISO 8601; without a time zone, it is UTC.

    :returns: seconds since 1970.
    :raises ValueError: it is none.
    """
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.timestamp()
    except OverflowError as error:
        raise ValueError(str(error)) from error


def _read(body: Any, limits: Limits) -> dict[str, Json]:
    """The object of a body, of which the size and depth are within the limits."""
    if isinstance(body, Mapping):
        # what it was before a driver read it
        try:
            body = dump(body)
        except RecursionError:
            raise _too_deep(limits) from None
        except (TypeError, ValueError) as error:
            raise Refused(Reason.NOT_JSON, f"it is not JSON: {_line(error)}") from None
    if not isinstance(body, bytes | bytearray | str):
        raise Refused(Reason.NOT_JSON, f"its body is {_kind(body)}, not bytes or text")
    size = _size(body)
    if size > limits.size:
        raise Refused(
            Reason.TOO_LARGE, f"it has {size:,} bytes; at most {limits.size:,} are accepted"
        )
    text = body if isinstance(body, str) else _decode(bytes(body))
    floats = _finite if _HUGE.search(text) else None
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=floats)
    except RecursionError:
        raise _too_deep(limits) from None
    except ValueError as error:
        raise Refused(Reason.NOT_JSON, f"it is not JSON: {_line(error)}") from None
    if not isinstance(value, dict):
        raise Refused(Reason.NOT_OBJECT, f"it is {_kind(value)}, not an object")
    # counting is fast, and most have few of them
    if len(_OPENING.findall(text)) > limits.depth and _is_deeper(value, limits.depth):
        raise _too_deep(limits)
    return value


def _size(body: bytes | bytearray | str) -> int:
    """Bytes of a body, as UTF-8 if it is a text."""
    if isinstance(body, str) and not body.isascii():
        return len(body.encode("utf-8", "surrogatepass"))
    return len(body)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(
            Reason.ENCODING,
            f"it is not UTF-8: byte 0x{data[error.start]:02X} at position {error.start}",
        ) from None


def _no_number(word: str) -> Any:
    raise ValueError(f"JSON has no number {word}")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:30]} is too large")
    return value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _is_deeper(value: Json, limit: int) -> bool:
    """Whether lists and objects are nested deeper than the limit."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _too_deep(limits: Limits) -> Refused:
    return Refused(Reason.TOO_DEEP, f"it is nested more than {limits.depth} levels deep")


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def _wrong(name: str, expected: str, value: object) -> Refused:
    return Refused(Reason.WRONG_TYPE, f"its {name} is {_kind(value)}; {expected} is expected")


def _take(body: Mapping[str, Json], name: str, kind: type, default: Any) -> Any:
    """A field that may be missing or null."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise _wrong(name, _kind(kind()), value)
    return value


def _name(
    body: Mapping[str, Json], metadata: Mapping[str, Json], name: str, default: str | None
) -> str:
    value = _take(body, name, str, None)
    if value is None:
        value = _take(metadata, name, str, default)
    if not value:
        raise Refused(Reason.MISSING, f"it has no {name}; a text is expected")
    return _short(value, name)


def _short(text: str, name: str) -> str:
    if len(text) > NAME_LENGTH:
        raise Refused(
            Reason.TOO_LONG,
            f"its {name} has {len(text):,} characters; at most {NAME_LENGTH} are accepted",
        )
    if not is_storable(text):
        raise Refused(Reason.WRONG_TYPE, f"its {name} has a character that cannot be stored")
    return text


def is_storable(text: str) -> bool:
    """Whether databases, and UTF-8, can store a text: it has neither NUL nor lone surrogates."""
    # most are ASCII, which is seen faster
    return "\0" not in text and (text.isascii() or not _UNSTORABLE.search(text))


def _timestamp(
    body: Mapping[str, Json],
    metadata: Mapping[str, Json],
    default: float | None,
    now: float,
    limits: Limits,
) -> float:
    value = body.get("timestamp")
    if value is None:
        value = metadata.get("timestamp")
    if value is None:
        value = default
    if value is None:
        raise Refused(Reason.MISSING, "it has no timestamp; a time in ISO 8601 is expected")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong("timestamp", "a time in ISO 8601", value)
    try:
        at = parse_time(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        shown = str(value)[:60] if isinstance(value, str) else "a number that is too large"
        raise Refused(
            Reason.WRONG_TYPE, f"its timestamp is {shown!r}; a time in ISO 8601 is expected"
        ) from None
    if not math.isfinite(at) or at > now + limits.ahead:
        raise Refused(
            Reason.FUTURE,
            f"its timestamp {_shown(at)} is more than {limits.ahead:,.0f} s in the future",
        )
    if at < now - limits.age:
        raise Refused(
            Reason.ANCIENT, f"its timestamp {_shown(at)} is more than {limits.age:,.0f} s ago"
        )
    return at


def _shown(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "far away"


def _context(body: Mapping[str, Json]) -> dict[str, Json]:
    given = body.get("ctxt")
    found: dict[str, Json] = {}
    for key, value in body.items():
        if key.startswith(_CONTEXT):
            found[key[len(_CONTEXT) :]] = value
    # of the request, not of the notification: what has another form is left out
    return {**found, **given} if isinstance(given, dict) else found
