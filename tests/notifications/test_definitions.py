"""From a notification to an event and samples, by definitions in Ceilometer's format."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonpath_ng.ext.parser import parse as jsonpath

from converge.errors import PipelineError
from converge.pipeline import (
    Event,
    EventDefinitions,
    Message,
    MeterDefinitions,
    Pipeline,
    Reason,
    Refused,
    Sample,
    Trait,
    parse,
)
from converge.pipeline.paths import compile_path
from tests.notifications.samples import (
    EVENT_DEFINITIONS,
    METERS,
    START,
    body,
    message,
    volume,
)

#: A folder with Ceilometer's own files and Nova's samples, if somebody has one.
FOLDER = os.environ.get("CONVERGE_TEST_NOTIFICATIONS")


def event(definitions: Any, given: dict[str, Any], **keywords: Any) -> Event | None:
    found = parse(message(given), START)
    made = EventDefinitions.load(definitions, **keywords)
    return made.make(found, found.as_body())


def values(one: Event | None) -> dict[str, Any]:
    assert one is not None
    return {trait.name: trait.value for trait in one.traits}


def samples(definitions: Any, given: dict[str, Any]) -> tuple[list[Sample], list[Refused]]:
    found = parse(message(given), START)
    return MeterDefinitions.load(definitions).make(found, found.as_body())


# -- events


def test_the_last_definition_that_matches_makes_the_event() -> None:
    found = event(EVENT_DEFINITIONS, volume(1, created_at="2026-10-31T00:00:00"))
    assert found is not None
    assert (found.id, found.name, found.at) == ("m-1", "volume.create.end", START)
    assert values(found) == {
        "service": "volume.block-1",
        "project_id": "p1",
        "tenant_id": "p1",
        "user_id": "u1",
        "resource_id": "vol-1",
        "size": 11,
        "host": "block-1",
        "created_at": START - 86_400,
        "pool": "pool",
    }
    assert Trait("size", "int", 11) in found.traits


def test_excluded_and_unmatched_types_have_the_default_traits() -> None:
    for name in ("volume.usage", "port.create"):
        found = event(EVENT_DEFINITIONS, body("m", name, {"tenant_id": "p", "size": "x"}))
        assert values(found) == {"service": "service.host", "project_id": "p", "tenant_id": "p"}
        given = body("m", name, {})
        assert event(EVENT_DEFINITIONS, given, drop_unmatched=True) is None


def test_an_exclusion_alone_includes_all_others() -> None:
    definitions = [{"event_type": "!a.*", "traits": {"x": {"fields": "payload.x"}}}]
    assert "x" in values(event(definitions, body("m", "b", {"x": 1})))
    assert "x" not in values(event(definitions, body("m", "a.b", {"x": 1})))


@pytest.mark.parametrize(
    ("spec", "payload", "value"),
    [
        ("payload.a.b", {"a": {"b": "c"}}, "c"),
        ("payload.a", {"a": None}, None),
        ("payload.a", {"a": ["x"]}, "['x']"),
        ({"fields": ["payload.a", "payload.b"]}, {"a": None, "b": 2}, "2"),
        ("payload.'a.b'", {"a.b": "c"}, "c"),
        ("payload.list[?key=image].value", {"list": [{"key": "image", "value": "i"}]}, "i"),
        ("payload.list[1].id", {"list": [{"id": 1}, {"id": 2}]}, "2"),
        ({"fields": "payload.a", "type": "int"}, {"a": "7"}, 7),
        ({"fields": "payload.a", "type": "int"}, {"a": ""}, None),
        ({"fields": "payload.a", "type": "int"}, {"a": 7.9}, 7),
        ({"fields": "payload.a", "type": "float"}, {"a": "1.5"}, 1.5),
        ({"fields": "payload.a", "type": "datetime"}, {"a": "2026-11-01T00:00:00Z"}, START),
        ({"fields": "payload.a", "plugin": "split"}, {"a": "x.y"}, "x"),
        (
            {
                "fields": "payload.a",
                "plugin": {"name": "split", "parameters": {"segment": 3}},
            },
            {"a": "x.y"},
            None,
        ),
        (
            {
                "fields": ["payload.a", "payload.b"],
                "type": "int",
                "plugin": {
                    "name": "bitfield",
                    "parameters": {
                        "initial_bitfield": 8,
                        "flags": [
                            {"path": "payload.a", "bit": 0, "value": "on"},
                            {"path": "payload.b", "bit": 1},
                            {"path": "payload.c", "bit": 2},
                        ],
                    },
                },
            },
            {"a": "on", "b": 0},
            11,
        ),
        (
            {"fields": ["payload.a", "payload.b"], "type": "float", "plugin": "timedelta"},
            {"a": "2026-11-01T00:00:00", "b": "2026-11-01T00:01:30"},
            90.0,
        ),
        (
            {
                "fields": "payload.a",
                "plugin": {
                    "name": "map",
                    "parameters": {"values": {"UP": "1"}, "default": "0", "case_sensitive": False},
                },
            },
            {"a": "up"},
            "1",
        ),
    ],
)
def test_traits(spec: Any, payload: dict[str, Any], value: Any) -> None:
    traits = {"t": spec if isinstance(spec, dict) else {"fields": spec}}
    found = event([{"event_type": "*", "traits": traits}], body("m", "a", payload))
    assert values(found).get("t") == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int", "many", "trait t must be a whole number, not 'many'"),
        ("int", 2**63, "it has more than 64 bits"),
        ("float", [1], "trait t must be a number, not '[1]'"),
        ("float", "inf", "it is not finite"),
        ("datetime", "today", "trait t must be a time in ISO 8601, not 'today'"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, value: Any, message: str) -> None:
    traits = {"t": {"fields": "payload.a", "type": kind}}
    with pytest.raises(Refused) as caught:
        event([{"event_type": "*", "traits": traits}], body("m", "a", {"a": value}))
    assert caught.value.reason is Reason.DEFINITION
    assert message in str(caught.value)


# -- meters


def test_a_meter_makes_a_sample() -> None:
    found, problems = samples(METERS, volume(1))
    assert problems == []
    (one,) = found
    assert (one.name, one.type, one.unit, one.volume) == ("volume.size", "gauge", "GiB", 11)
    assert (one.resource_id, one.project_id, one.user_id) == ("vol-1", "p1", "u1")
    assert (one.at, one.metadata) == (START, {"display_name": "disk 1"})
    # the same of the same notification, another one of another
    assert samples(METERS, volume(1))[0][0].id == one.id
    assert samples(METERS, volume(2))[0][0].id != one.id


def test_one_notification_gives_many_samples() -> None:
    metrics = [
        {"name": "cpu.user", "unit": "ns", "value": 5},
        {"name": "cpu.idle", "unit": "ns", "value": 7.5},
    ]
    given = body("m", "host.metrics", {"host": "h", "node": "n", "metrics": metrics})
    found, _ = samples(METERS, given)
    assert [(one.name, one.volume, one.resource_id) for one in found] == [
        ("cpu.user", 5, "h_n"),
        ("cpu.idle", 7.5, "h_n"),
    ]
    assert len({one.id for one in found}) == 2
    assert samples(METERS, body("m", "host.metrics", {"host": "h"}))[0] == []


def test_a_lookup_that_lacks_a_value_is_refused_and_others_are_not() -> None:
    metrics = [{"name": "a", "unit": "b", "value": 1}, {"name": "c", "unit": "d"}]
    given = body("m", "host.metrics", {"host": "h", "node": "n", "metrics": metrics})
    found, (refused,) = samples(METERS, given)
    assert found == []
    assert "there are 2 names, but 1 of volume" in str(refused)
    assert refused.definition == "1 $.payload.metrics.[*].name"


@pytest.mark.parametrize(
    ("meter", "payload", "volume"),
    [
        ({"volume": 1}, {}, 1),
        ({"volume": "$.payload.a * 100"}, {"a": 0.5}, 50.0),
        ({"volume": "$.payload.a"}, {"a": "3.5"}, 3.5),
        ({"volume": "$.payload.a"}, {}, None),
        (
            {"volume": {"fields": ["$.payload.a", "$.payload.b"], "plugin": "timedelta"}},
            {"a": "2026-11-01T00:00:00", "b": "2026-11-01T00:00:09"},
            9.0,
        ),
    ],
)
def test_volumes(meter: dict[str, Any], payload: dict[str, Any], volume: Any) -> None:
    whole = {
        "name": "m",
        "type": "gauge",
        "unit": "u",
        "event_type": "a",
        "resource_id": "$.payload.id",
        **meter,
    }
    found, problems = samples({"metric": [whole]}, body("m", "a.b", payload))
    assert [one.volume for one in found] == ([] if volume is None else [volume])
    assert problems == []


def test_a_volume_that_is_no_number_is_refused() -> None:
    for value in (True, "x", [1], "1e999"):
        _, (refused,) = samples(METERS, volume(1, size=value))
        assert "meter volume.size: volume must be a number" in str(refused)


# -- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "defs:1: event definitions are a list"),
        ("- event_type: a\n", "defs:1: [0]: traits is missing"),
        ("- event_type: a\n  traits: {}\n  x: 1\n", "defs:3: [0].x: there is no such key"),
        (
            "- event_type: a\n  traits:\n    t:\n      type: integer\n      fields: payload.a\n",
            "defs:4: [0].traits.t.type: there is no type 'integer'; did you mean 'int'?",
        ),
        (
            "- event_type: a\n  traits:\n    t: {fields: 'payload.['}\n",
            "defs:3: [0].traits.t: 'payload.[' is not a JSON path",
        ),
        (
            "- event_type: a\n  traits:\n    t: {fields: payload.a, plugin: splitt}\n",
            "there is no plugin 'splitt'; did you mean 'split'?",
        ),
        ("- event_type: ['!*']\n  traits: {}\n", "no event type can match it"),
    ],
)
def test_mistakes_in_event_definitions(text: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        EventDefinitions.load(text, name="defs")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "gage"}, "metric[0].type: there is no type 'gage'; did you mean 'gauge'?"),
        ({"volume": None}, "metric[0]: volume is missing"),
        ({"event_type": "("}, "'(' is not a regular expression"),
        ({"lookup": ["vol"]}, "there is no field 'vol'"),
        ({"volume": "$.["}, "metric[0].volume: '$.[' is not a JSON path"),
        ({"metadata": ["a"]}, "metric[0].metadata: a mapping of names is expected"),
    ],
)
def test_mistakes_in_meter_definitions(change: dict[str, Any], message: str) -> None:
    meter = {
        "name": "m",
        "type": "gauge",
        "unit": "u",
        "event_type": "a",
        "volume": 1,
        "resource_id": "$.payload.id",
    }
    with pytest.raises(PipelineError) as caught:
        MeterDefinitions.load({"metric": [meter | change]})
    assert message in str(caught.value)


def read_folder(folder: Path) -> tuple[Pipeline, list[str]]:
    """Ceilometer's files, unchanged, and Nova's samples."""
    found = Pipeline.load(
        folder / "event_pipeline.yaml",
        folder / "pipeline.yaml",
        event_definitions=folder / "event_definitions.yaml",
        meters=folder / "meters.yaml",
    )
    return found, (folder / "nova-versioned.jsonl").read_text(encoding="utf-8").splitlines()


def write_folder(folder: Path) -> Path:
    """The same as such a folder has, in small."""
    ends = {"event_pipeline": ("events", "notifier"), "pipeline": ("meters", "gnocchi")}
    for name, (kind, publisher) in ends.items():
        (folder / f"{name}.yaml").write_text(
            f"---\nsources:\n    - name: {kind}_source\n      {kind}:\n          - '*'\n"
            f"      sinks:\n          - {kind}_sink\nsinks:\n    - name: {kind}_sink\n"
            f"      publishers:\n          - {publisher}://\n"
        )
    (folder / "event_definitions.yaml").write_text(EVENT_DEFINITIONS)
    (folder / "meters.yaml").write_text(METERS)
    lines = [json.dumps(volume(number)) for number in range(5)]
    (folder / "nova-versioned.jsonl").write_text("\n".join(lines))
    return folder


def test_ceilometer_s_files_load_as_they_are(tmp_path: Path) -> None:
    folder = Path(FOLDER) if FOLDER else write_folder(tmp_path)
    pipeline, lines = read_folder(folder)
    assert [note.partition("publishers[0]: ")[2][:37] for note in pipeline.notes] == [
        "there is no publisher 'notifier' here",
        "there is no publisher 'gnocchi' here,",
    ]
    for number, line in enumerate(lines):
        given = Message(line, fallback_id=f"f:{number}", fallback_time=START)
        found = pipeline.make(parse(given, START))
        assert found.event is not None
        assert found.event.get("service")
        assert found.problems == ()
        assert "nova_object.data" not in line or parse(given, START).payload


PATHS = [
    "a",
    "$",
    "$.a",
    "a.b",
    "a.b.c",
    "a.'b.c'",
    "a[0]",
    "a[0].b",
    "a.b[?c=1].b",
    "a[?(@.b='x')].c",
    "a.[*].b",
    "a.*.b",
    "$..b",
    "a.`split(., 0, 1)`",
    "a.b.`split(., 1, -1)`",
    "a + b",
    "a.b * 100",
    '$.a + "_" + $.b',
]
NODES = st.recursive(
    st.none() | st.sampled_from([0, 1, "x", "x.y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "c", "b.c"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from("abc"), NODES))
def test_what_is_followed_without_the_library_finds_the_same(
    path: str, given: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = jsonpath(path)
    try:
        wanted = [found.value for found in parsed.find(given)]
    except Exception:
        wanted = []
    assert [match.value for match in compile_path(path)(given)] == wanted
