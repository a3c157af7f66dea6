"""Pipeline files: what they choose, and what is said of mistakes in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converge.errors import BadInput, PipelineError
from converge.pipeline import Pipeline, Sample, parse
from converge.pipeline.patterns import Patterns
from converge.pipeline.stages import STEPS, installed_steps
from tests.notifications.samples import METERS, START, message, volume
from tests.notifications.world import write

GOOD = """\
sources:
  - name: volumes
    events: ['volume.*', '!volume.usage']
    sinks: [out]
sinks:
  - name: out
    steps:
      - filter: {names: 'volume.*'}
      - rename: {to: 'x.{name}'}
      - rename: {to: 'y.{name}', as: again}
      - rename: {to: 'z.{name}'}
    publishers:
      - log
"""


def load(text: str) -> Pipeline:
    return Pipeline.load(text)


def errors(text: str) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        load(text)
    return [str(one) for one in caught.value.errors]


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_file_is_read() -> None:
    found = load(GOOD)
    assert [stage.name for stage in found.sinks["out"].stages] == [
        "filter",
        "rename",
        "again",
        "rename-2",
        "log",
    ]
    assert (found.sinks["out"].attempts, found.notes) == (3, ())
    given = found.make(parse(message(volume(1)), START))
    assert [item.name for item in found.select(given)["out"]] == ["volume.create.end"]
    given = found.make(parse(message(volume(1) | {"event_type": "volume.usage"}), START))
    assert found.select(given) == {}


def test_what_several_sources_choose_a_sink_gets_once() -> None:
    source = {"events": ["*"], "sinks": ["out"]}
    found = Pipeline.load(
        {
            "sources": [
                {"name": "a", **source},
                {"name": "b", **source},
                {"name": "c", "meters": ["volume.*"], "sinks": ["out", "other"]},
            ],
            "sinks": [
                {"name": "out", "publishers": ["log"]},
                {"name": "other", "publishers": ["log"]},
            ],
        },
        meters=METERS,
    )
    chosen = found.select(found.make(parse(message(volume(1)), START)))
    assert [item.name for item in chosen["out"]] == ["volume.create.end", "volume.size"]
    assert [item.name for item in chosen["other"]] == ["volume.size"]


def test_definitions_and_limits_may_be_named_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, METERS, "meters.yaml")
    limits = "meters: meters.yaml\nlimits: {size: 100, ahead: 5}\ndrop_unmatched_events: true\n"
    found = Pipeline.load(write(tmp_path, GOOD + limits))
    assert (found.limits.size, found.limits.ahead, found.limits.depth) == (100, 5, 50)
    made = found.make(parse(message(volume(1)), START))
    assert made.event is None
    assert [one.name for one in made.samples] == ["volume.size"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []\n", "pipeline:1: sinks is missing"),
        ("- a\n- b\n", "pipeline:1: a mapping is expected, with sources, sinks"),
        (replaced("[out]", "[uot]"), ":4: sources[0].sinks: there is no sink 'uot'; did you mean"),
        (replaced("events: ['volume.*', '!volume.usage']", "x: 1"), ":2: sources[0]: it selects"),
        (replaced("['volume.*', '!volume.usage']", "['!*']"), ":3: sources[0].events: it selects"),
        (
            replaced("['volume.*', '!volume.usage']", "['a', '!a']"),
            ":3: sources[0].events: it selects nothing: no name can match",
        ),
        (replaced("filter:", "filtre:"), "there is no step 'filtre'; did you mean 'filter'?"),
        (replaced("names:", "name:"), "filter has no parameter 'name'; did you mean 'names'?"),
        (replaced("{names: 'volume.*'}", "{}"), "steps[0]: it needs names"),
        (replaced("filter: {names: 'volume.*'}", "tests.x:y"), "'tests.x:y' cannot be imported"),
        (
            replaced("filter: {names: 'volume.*'}", "converge.pipeline:Pipeline"),
            "class 'converge.pipeline:Pipeline' must inherit from Step",
        ),
        (replaced("- log", "- lgo"), ":13: sinks[0].publishers[0]: there is no publisher 'lgo'"),
        (replaced("\n      - log", " []"), "a sink needs a publisher, such as log"),
        (replaced("as: again", "as: filter"), "two stages of the sink have the name 'filter'"),
        (replaced("'x.{name}'", "'x.{name'"), "'x.{name' is not a text with fields in braces"),
        (replaced("- name: out", "- name: out\n    attempts: 0"), "a whole number from 1 to 1000"),
        (replaced("- name: out", "- name: out\n    wait: -1"), "a number of seconds from 0"),
        (
            replaced("- name: out", "- name: out\n    transformers: [{name: x}]"),
            "Ceilometer removed transformers; use steps",
        ),
        (GOOD + "limits: {size: 1.5}\n", ":14: limits.size: a whole number above 0"),
        (GOOD + "sink: 1\n", ":14: sink: there is no such key; did you mean 'sinks'?"),
        (GOOD + "meters: nowhere.yaml\n", "nowhere.yaml: cannot be read"),
        ("a: [\n", "is not valid YAML"),
        (
            "sources: []\nsinks:\n  - {name: out, publishers: [log]}\n",
            ":1: sources: it selects nothing: there is no source",
        ),
        ("sources: &s [*s]\nsinks: []\n", ":1"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, message: str) -> None:
    found = errors(text)
    assert any(message in one for one in found), found


def test_all_mistakes_are_told_at_once() -> None:
    text = replaced("[out]", "[uot]").replace("- log", "- lgo")
    with pytest.raises(PipelineError, match=r"and 1 more mistake") as caught:
        load(text)
    assert [one.line for one in caught.value.errors] == [13, 4]


def test_sinks_that_hand_items_around_are_refused() -> None:
    ring = {
        "sources": [{"name": "s", "events": ["*"], "sinks": ["a"]}],
        "sinks": [
            {"name": "a", "publishers": ["sink://b"]},
            {"name": "b", "publishers": [{"sink": "a"}]},
        ],
    }
    with pytest.raises(PipelineError, match="the sinks hand items around in a loop"):
        Pipeline.load(ring)


def test_a_sink_comes_before_those_that_it_hands_items_to() -> None:
    found = Pipeline.load(
        {
            "sources": [{"name": "s", "events": ["*"], "sinks": ["last"]}],
            "sinks": [
                {"name": "first", "publishers": ["log"]},
                {"name": "last", "publishers": ["sink://first"]},
                {"name": "alone", "publishers": ["log"]},
            ],
        }
    )
    assert list(found.sinks).index("last") < list(found.sinks).index("first")
    assert [note.partition(": ")[2] for note in found.notes] == [
        "sinks[2]: nothing comes to sink 'alone': no source names it"
    ]


@pytest.mark.parametrize("url", ["file:///tmp/x.jsonl", "http://localhost/x", "log://"])
def test_publishers_may_be_urls(url: str) -> None:
    assert load(replaced("- log", f"- {url}")).notes == ()


def test_built_in_steps_are_not_hidden_by_installed_ones() -> None:
    assert not set(installed_steps()) & set(STEPS)


@pytest.mark.parametrize(
    ("patterns", "yes", "no"),
    [
        (["*"], "a.b", None),
        (["a.*", "!a.b"], "a.c", "a.b"),
        (["!a.*"], "b", "a.b"),
        (["a?", "b"], "ax", "axx"),
        (["[x"], "[x", "x"),
    ],
)
def test_patterns(patterns: list[str], yes: str, no: str | None) -> None:
    found = Patterns(patterns)
    assert found.matches(yes)
    assert no is None or not found.matches(no)


def test_a_step_may_be_a_function() -> None:
    text = replaced("filter: {names: 'volume.*'}", f"{__name__}:double: {{factor: 3}}")
    stage = load(text).sinks["out"].stages[0]
    assert stage.name == "double"
    sample = Sample("i", "n", "gauge", "u", 2, None, START)
    made: Any = stage.work.apply(sample)  # type: ignore[union-attr]
    assert made.volume == 6


def double(item: Sample, factor: float = 2) -> Sample:
    """A step."""
    from dataclasses import replace

    return replace(item, volume=item.volume * factor)


def test_a_dotted_name_says_what_is_missing() -> None:
    from converge.pipeline.converging import import_name

    for text, message_ in (
        ("nothing", "is not a dotted name; write package.module:name"),
        ("converge.pipeline:nothing", "has no 'nothing'"),
        ("converge.nowhere:x", "cannot be imported"),
    ):
        with pytest.raises(BadInput, match=message_):
            import_name(text)
