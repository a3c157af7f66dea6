"""From a message to a notification, whatever the message is."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from converge.canonical import dump
from converge.pipeline import Limits, Message, Notification, Reason, Refused, parse
from converge.pipeline.notification import raw_text, unwrap
from tests.notifications.samples import START, body, message, server, volume


def refusal(given: Any, **keywords: Any) -> Refused:
    one = given if isinstance(given, Message) else Message(given)
    with pytest.raises(Refused) as caught:
        parse(one, START, **keywords)
    return caught.value


def test_a_notification_is_parsed() -> None:
    given = volume(1) | {"_context_user_id": "u", "_context_project_id": "p"}
    assert parse(message(given), START) == Notification(
        "m-1",
        "volume.create.end",
        "volume.block-1",
        "INFO",
        START,
        given["payload"],
        {"user_id": "u", "project_id": "p"},
    )


@pytest.mark.parametrize("wrap", [json.dumps, lambda inner: inner], ids=["text", "object"])
def test_the_envelope_of_oslo_messaging_is_opened(wrap: Any) -> None:
    inner = body("m", "a.b", {"x": 1}, ctxt={"user_id": "u"})
    outer = {"oslo.version": "2.0", "oslo.message": wrap(inner)}
    found = parse(Message(json.dumps(outer)), START)
    assert (found.message_id, found.context) == ("m", {"user_id": "u"})


def test_a_driver_s_dictionary_has_its_id_and_time_in_the_metadata() -> None:
    given = {
        "ctxt": {"user_id": "u"},
        "publisher_id": "p",
        "event_type": "a.b",
        "payload": {},
        "metadata": {"message_id": "m", "timestamp": "2026-11-01T01:00:00+01:00"},
    }
    found = parse(Message(given, priority="error"), START)
    assert (found.message_id, found.at, found.priority) == ("m", START, "ERROR")


def test_what_a_source_knows_stands_in_for_what_a_body_lacks() -> None:
    given = {"event_type": "a.b", "payload": {}}
    found = parse(Message(json.dumps(given), fallback_id="f:1", fallback_time=START), START)
    assert (found.message_id, found.at) == ("f:1", START)


def test_versioned_objects_are_unwrapped_wherever_they_are() -> None:
    found = parse(message(body("m", "instance.create.end", server("i", {"vcpus": 2}))), START)
    assert found.payload == {"uuid": "i", "flavor": {"vcpus": 2}, "tags": [{"vcpus": 2}]}
    assert found.event_type == "instance.create.end"


def test_what_only_looks_like_a_versioned_object_stays() -> None:
    for value in ({"nova_object.data": {"a": 1}}, {"x.data": {}, "x.name": "y"}, {"data": 1}):
        assert unwrap(value) == value
    other = {"ironic_object.name": "n", "ironic_object.data": {"a": 1}}
    assert unwrap({"nodes": [other]}) == {"nodes": [{"a": 1}]}


def changed(**values: Any) -> str:
    given = body("m", "a.b", {})
    for key, value in values.items():
        if value is ...:
            del given[key]
        else:
            given[key] = value
    return json.dumps(given)


@pytest.mark.parametrize(
    ("given", "reason", "message"),
    [
        (b"", Reason.NOT_JSON, "it is not JSON: Expecting value"),
        (b"{", Reason.NOT_JSON, "it is not JSON: Expecting property name"),
        (b"[1]", Reason.NOT_OBJECT, "it is a list, not an object"),
        (b'"a"', Reason.NOT_OBJECT, "it is a text, not an object"),
        ("{}".encode("utf-16"), Reason.ENCODING, "it is not UTF-8: byte 0xFF at position 0"),
        (b'{"a": "\xe9"}', Reason.ENCODING, "it is not UTF-8: byte 0xE9 at position 7"),
        (changed(payload={"a": math.nan}), Reason.NOT_JSON, "JSON has no number NaN"),
        ('{"a": 1e999}', Reason.NOT_JSON, "the number 1e999 is too large"),
        ('{"a": ' + "9" * 400 + ".0}", Reason.NOT_JSON, "is too large"),
        ('{"a": ' + "9" * 5000 + "}", Reason.NOT_JSON, "it is not JSON"),
        ('{"a":' * 60 + "1" + "}" * 60, Reason.TOO_DEEP, "more than 50 levels deep"),
        ("[" * 200_000, Reason.TOO_DEEP, "more than 50 levels deep"),
        (" " * 2_000_000, Reason.TOO_LARGE, "it has 2,000,000 bytes; at most 1,048,576"),
        ("\U0001f600" * 300_000, Reason.TOO_LARGE, "it has 1,200,000 bytes"),
        (changed(message_id=...), Reason.MISSING, "it has no message_id"),
        (changed(message_id=""), Reason.MISSING, "it has no message_id"),
        (changed(message_id=7), Reason.WRONG_TYPE, "its message_id is a number; a text"),
        (changed(message_id="x" * 256), Reason.TOO_LONG, "has 256 characters; at most 255"),
        (changed(message_id="a\0b"), Reason.WRONG_TYPE, "a character that cannot be stored"),
        (changed(event_type=...), Reason.MISSING, "it has no event_type"),
        (changed(event_type=["a"]), Reason.WRONG_TYPE, "its event_type is a list; a text"),
        (changed(event_type="a\ud800"), Reason.WRONG_TYPE, "cannot be stored"),
        (changed(publisher_id={}), Reason.WRONG_TYPE, "its publisher_id is an object"),
        (changed(priority=1), Reason.WRONG_TYPE, "its priority is a number"),
        (changed(payload=...), Reason.MISSING, "it has no payload"),
        (changed(payload="x"), Reason.WRONG_TYPE, "its payload is a text; an object"),
        (changed(metadata=[]), Reason.WRONG_TYPE, "its metadata is a list; an object"),
        (changed(timestamp=...), Reason.MISSING, "it has no timestamp"),
        (changed(timestamp="soon"), Reason.WRONG_TYPE, "its timestamp is 'soon'"),
        (changed(timestamp=True), Reason.WRONG_TYPE, "its timestamp is true or false"),
        (changed(timestamp="9999-12-31"), Reason.FUTURE, "9999-12-31T00:00:00Z is more than"),
        (changed(timestamp=1e300), Reason.FUTURE, "its timestamp far away is more than"),
        (changed(timestamp="0001-01-01T00:00:00+14:00"), Reason.ANCIENT, "ago"),
        (json.dumps({"oslo.message": 5}), Reason.WRONG_TYPE, "its oslo.message is a number"),
        (json.dumps({"oslo.message": "{"}), Reason.NOT_JSON, "it is not JSON"),
        ({"payload": {1: 2, "a": 3}}, Reason.NOT_JSON, "it is not JSON"),
        ({"payload": object()}, Reason.NOT_JSON, "is not JSON serializable"),
        (5, Reason.NOT_JSON, "its body is a number, not bytes or text"),
    ],
)
def test_bad_messages_are_refused(given: Any, reason: Reason, message: str) -> None:
    found = refusal(given)
    assert found.reason is reason
    assert message in str(found)


def test_limits_are_settings() -> None:
    given = changed(payload={"a": {"b": 1}})
    assert refusal(given, limits=Limits(size=20)).reason is Reason.TOO_LARGE
    assert refusal(given, limits=Limits(depth=2)).reason is Reason.TOO_DEEP
    assert parse(Message(given), START, Limits(depth=3)).payload == {"a": {"b": 1}}
    for at, limits, reason in (
        (START + 11, Limits(ahead=10), Reason.FUTURE),
        (START - 11, Limits(age=10), Reason.ANCIENT),
    ):
        assert refusal(changed(timestamp=at), limits=limits).reason is reason
        assert parse(Message(changed(timestamp=at)), START).at == at


TEXTS = st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "message_id": TEXTS | VALUES,
        "event_type": TEXTS | VALUES,
        "publisher_id": TEXTS | VALUES,
        "priority": TEXTS | VALUES,
        "timestamp": VALUES
        | st.floats(START - 1e9, START + 1e6)
        | st.datetimes(datetime(1, 1, 1)).map(str)
        | st.just(datetime.fromtimestamp(START, UTC).isoformat()),
        "payload": st.dictionaries(TEXTS, VALUES, max_size=4) | VALUES,
        "ctxt": VALUES,
        "_context_x": VALUES,
        "metadata": st.dictionaries(st.sampled_from(["message_id", "timestamp"]), VALUES) | VALUES,
        "oslo.message": VALUES.map(json.dumps) | VALUES,
        "nova_object.data": VALUES,
    },
)
BODIES = (
    st.binary(max_size=200)
    | TEXTS
    | VALUES.map(json.dumps)
    | FIELDS
    | FIELDS.map(json.dumps)
    | FIELDS.map(lambda one: json.dumps(one, ensure_ascii=False).encode("utf-8", "replace"))
    | FIELDS.map(lambda one: json.dumps(one).encode("utf-16"))
    | st.integers(1, 3000).map(lambda depth: '{"payload":' * depth + "1" + "}" * depth)
)


def parse_or_refuse(one: Message) -> tuple[Notification | None, Refused | None]:
    try:
        return parse(one, START), None
    except Refused as refused:
        return None, refused


@given(BODIES)
@example({"a": {}})
def test_any_body_is_parsed_or_refused_with_a_reason(given: Any) -> None:
    one = Message(given)
    found, refused = parse_or_refuse(one)
    if found is None:
        assert refused is not None
        assert refused.reason in Reason
        assert str(refused)
        # the dead letter can be stored whatever it is
        assert len(dump(raw_text(one, 50))) < 1000
        return
    for name in (found.message_id, found.event_type):
        assert 0 < len(name) <= 255
        assert "\0" not in name
        assert name.encode()
    assert START - Limits().age <= found.at <= START + Limits().ahead
    dump(found.as_body())
    # parsed once more, it is the same
    again = parse(Message(found.as_body()), START)
    assert (again.message_id, again.payload, again.context) == (
        found.message_id,
        unwrap(found.payload),
        found.context,
    )


def test_a_dead_letter_keeps_what_came_within_a_limit() -> None:
    assert raw_text(Message(b"abc"), 10) == {"text": "abc"}
    cut, other = raw_text(Message(b"a" * 20), 10), raw_text(Message(b"a" * 19 + b"b"), 10)
    assert (cut["text"], cut["size"]) == (other["text"], other["size"]) == ("a" * 10, 20)
    # two that begin in the same way are two
    assert cut["sha256"] != other["sha256"]
    assert raw_text(Message(b"\xff"), 10) == {"base64": "/w=="}
    assert raw_text(Message({"a": 1}), 10) == {"text": '{"a":1}'}
