"""The commands ``pipeline``, ``deadletters`` and ``event-store``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.cli import main
from converge.pipeline import Message, Pipeline, process_batch, receive, sweep
from tests.notifications.samples import EVENT_DEFINITIONS, METERS, START, body, message, volume
from tests.notifications.world import NOTE, World, pipeline, write

FILE = """\
event_definitions: events.yaml
meters: meters.yaml
sources:
  - {name: events, events: ['volume.*'], sinks: [out]}
  - {name: meters, meters: ['*'], sinks: [sums]}
sinks:
  - name: out
    publishers: [log]
  - name: sums
    steps:
      - aggregate: {by: project_id, window: 60}
    publishers: [database]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pipeline file in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    write(tmp_path, EVENT_DEFINITIONS, "events.yaml")
    write(tmp_path, METERS, "meters.yaml")
    return str(write(tmp_path, FILE))


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(words) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err or out


def feed(monkeypatch: pytest.MonkeyPatch, *given: Any) -> None:
    """What comes by stdin."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in given]
    stream = io.TextIOWrapper(io.BytesIO(b"\n".join(lines)))
    monkeypatch.setattr(sys, "stdin", stream)


# -- pipeline


def test_check(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "pipeline", "check", file) == (
        "no mistakes: 2 sources, 2 sinks, 2 event definitions, 2 meters\n"
    )
    found = json.loads(run(capsys, "pipeline", "check", file, "--json"))
    assert found == {"valid": True, "mistakes": [], "notes": []}


def test_check_tells_all_mistakes_and_notes(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = FILE.replace("[out]", "[uot]").replace("aggregate:", "agregate:")
    path = str(write(tmp_path, bad.replace("[log]", "['gnocchi://']"), "bad.yaml"))
    told = run(capsys, "pipeline", "check", path, status=2)
    assert f"{path}:4: sources[0].sinks: there is no sink 'uot'" in told
    assert f"{path}:11: sinks[1].steps[0]: there is no step 'agregate'" in told
    assert told.endswith("converge: 2 mistakes\n")
    main(["pipeline", "check", path, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["line"] for one in found["mistakes"]] == [11, 4]
    path = str(write(tmp_path, FILE.replace("[log]", "['gnocchi://']"), "note.yaml"))
    main(["pipeline", "check", path])
    assert "there is no publisher 'gnocchi' here" in capsys.readouterr().err


def test_graph(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "pipeline", "graph", file)
    assert "sums/aggregate  requires meters" in told
    assert "sums/database  requires sums/aggregate" in told
    assert "out/log  requires events" in told
    assert run(capsys, "pipeline", "graph", file, "--format", "dot").startswith("digraph")
    nodes = json.loads(run(capsys, "pipeline", "graph", file, "--json"))["nodes"]
    assert {"name": "sums/database", "status": None, "requires": ["sums/aggregate"]} in nodes


def test_try_tells_what_would_become_of_each(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def now() -> float:
        return START

    monkeypatch.setattr("converge.cli.pipeline.time.time", now)
    given = (volume(1), b"{", volume(2), body("m", "other", {}), volume(3, size="x"), b"")
    feed(monkeypatch, *given)
    told = run(capsys, "pipeline", "try", file)
    assert "line 1: volume.create.end\n  event: service=volume.block-1" in told
    assert "  sample: volume.size = 11 GiB of vol-1\n  -> out: event volume.create.end" in told
    assert "line 2: dead letter (not_json): it is not JSON" in told
    assert "line 4: other\n  event: service=service.host\n" in told
    assert "  dead letter (definition): trait size must be a whole number, not 'x'" in told
    assert told.endswith(
        "at the end, held by steps until their time:\n  -> sums: volume.size = 23 GiB of vol-1\n"
    )
    feed(monkeypatch, *given)
    found = json.loads(run(capsys, "pipeline", "try", file, "--json"))
    assert [one["line"] for one in found] == [1, 2, 3, 4, 5, None]
    assert found[1]["dead_letter"]["reason"] == "not_json"
    assert found[0]["sinks"]["out"][0]["id"] == "m-1"
    # nothing was written
    assert sorted(one.name for one in Path.cwd().iterdir()) == [
        "events.yaml",
        "meters.yaml",
        "pipeline.yaml",
    ]


def test_try_calls_no_step_that_may_have_effects(
    file: str,
    tmp_path: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = FILE.replace("- name: out\n", f"- name: out\n    steps: ['{NOTE}']\n")
    path = str(write(tmp_path, text))
    feed(monkeypatch, volume(1) | {"timestamp": None})
    main(["pipeline", "try", path])
    assert "the step out/Note may have effects, so it was not called" in capsys.readouterr().err
    assert world.seen == []
    feed(monkeypatch, volume(1) | {"timestamp": None})
    run(capsys, "pipeline", "try", path, "--call-steps")
    assert world.seen == [("note", "m-1")]


def test_a_line_that_is_too_long_is_one_line(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, FILE + "limits: {size: 300}\n"))
    feed(monkeypatch, b"x" * 200_000, b"{")
    told = run(capsys, "pipeline", "try", path).splitlines()
    assert [line.partition(":")[0] for line in told] == ["line 1", "line 2"]
    assert "dead letter (too_large)" in told[0]


# -- dead letters and events


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> str:
    """Two events, a message that is none, and one whose step has failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    address = f"sqlite:///{tmp_path}/n.db"
    world.fails = {"m-2"}
    with converge.connect(address, create_schema=True) as store:
        bad = Message(b"{\x1b", headers={"queue": "q"})
        given = [message(volume(1)), bad, message(volume(2))]
        process_batch(store, failing(), given, now=START)
    return address


def failing() -> Pipeline:
    return pipeline(NOTE, attempts=1)


def test_dead_letters_are_listed_and_shown(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("deadletters", "list", "--db", url)
    head, *rows = run(capsys, *words).splitlines()
    assert head.split() == ["ID", "REASON", "COUNT", "LAST", "SINK", "STEP", "TYPE", "MESSAGE"]
    assert [row.split()[:3] for row in rows] == [["1", "not_json", "1"], ["2", "step", "1"]]
    assert "RuntimeError: m-2 is bad" in rows[1]
    for option, value, ids in (
        ("--reason", "step", [2]),
        ("--sink", "sink", [2]),
        ("--step", "Note", [2]),
        ("--type", "volume.create.end", [2]),
        ("--limit", "1", [1]),
        ("--after", "1", [2]),
        ("--older-than", "3600", []),
        ("--reason", "nothing", []),
    ):
        found = json.loads(run(capsys, *words, option, value, "--json"))
        assert [one["id"] for one in found] == ids, option
    told = run(capsys, "deadletters", "show", "1", "--db", url)
    assert "dead letter 1: it is not JSON" in told
    assert "headers: {'queue': 'q'}" in told
    assert "body: {\\x1b" in told
    found = json.loads(run(capsys, "deadletters", "show", "2", "--json", "--db", url))
    assert found["raw"]["items"][0]["id"] == "m-2"
    assert "no dead letter 9" in run(capsys, "deadletters", "show", "9", "--db", url, status=2)


def test_deliveries_are_listed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with converge.connect(url) as store:
        retrying = pipeline(NOTE, attempts=2, wait=60)
        # of a partition, which nobody has gone on with
        given = [message(volume(2) | {"message_id": "m-3"})]
        receive(store, retrying, given, partition=lambda *_: 1027, keep_items=True)
    words = ("deliveries", "list", "--db", url)
    head, *rows = run(capsys, *words).splitlines()
    assert head.split()[:6] == ["ID", "ORIGIN", "SINK", "STEP", "STATE", "PARTITION"]
    assert [row.split()[1:5] for row in rows] == [
        ["m-2", "sink", "Note", "failed"],
        ["m-3", "sink", "held", "3"],
    ]
    failed, waiting = json.loads(run(capsys, *words, "--json"))
    assert (failed["state"], failed["attempts"], failed["partition"]) == ("FAILED", 1, None)
    assert (waiting["origin"], waiting["step"], waiting["partition"]) == ("m-3", None, 3)
    for option, value, origins in (
        ("--state", "failed", ["m-2"]),
        ("--state", "due", []),
        ("--sink", "nothing", []),
        ("--limit", "1", ["m-2"]),
        ("--after", str(failed["id"]), ["m-3"]),
    ):
        found = json.loads(run(capsys, *words, option, value, "--json"))
        assert [one["origin"] for one in found] == origins, option
    assert run(capsys, *words, "--state", "due") == "nothing is on its way\n"


def test_dead_letters_are_retried_and_dropped(
    url: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(capsys, "deadletters", "retry", "--reason", "step", "--db", url)
    assert told == "1 dead letter will be tried again by an agent\n"
    world.fails = set()
    with converge.connect(url) as store:
        assert sweep(store, failing()).delivered == {"sink": 1}
    assert world.names() == ["m-1", "m-2"]
    told = run(capsys, "deadletters", "drop", "1", "--json", "--db", url)
    assert json.loads(told) == {"dropped": 1}
    assert run(capsys, "deadletters", "list", "--db", url) == "no dead letters\n"


@pytest.mark.parametrize("operation", ["retry", "drop"])
def test_nothing_is_retried_or_dropped_that_nobody_named(
    operation: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(capsys, "deadletters", operation, "--db", url, status=2)
    assert f"{operation} needs the IDs of dead letters, or a filter: --reason, --sink" in told


def test_events_are_listed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("event-store", "list", "--db", url)
    rows = run(capsys, *words).splitlines()
    assert len(rows) == 3
    assert "2026-11-01T00:00:00Z  volume.create.end" in rows[1]
    assert "resource_id=vol-1" in rows[1]
    for given, ids in (
        (["--type", "volume.*"], ["m-1", "m-2"]),
        (["--type", "volume_create%"], []),
        (["--type", "x", "--type", "volume.create.end"], ["m-1", "m-2"]),
        (["--trait", "resource_id=vol-2"], ["m-2"]),
        (["--trait", "size>11"], ["m-2"]),
        (["--trait", "size<=11", "--trait", "user_id=u1"], ["m-1"]),
        (["--trait", "size>=11", "--limit", "1"], ["m-1"]),
        (["--after", "1"], ["m-2"]),
        (["--since", "2026-11-01T00:00:01Z"], []),
        (["--since", "2026-11-01T00:00:00Z"], ["m-1", "m-2"]),
    ):
        found = json.loads(run(capsys, *words, *given, "--json"))
        assert [one["message_id"] for one in found] == ids, given
    assert found[0]["traits"]["size"] == 11


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        ("pipeline check", "required: FILE"),
        ("pipeline try x.yaml --format dot", "--format is an option of graph"),
        ("pipeline graph x.yaml --json --format dot", "--json is --format json"),
        ("deadletters show", "show takes one ID"),
        ("deadletters list 1", "`converge deadletters show` shows one"),
        ("deadletters drop 1 --after 2", "--after is an option of list"),
        ("deadletters drop x", "must be a whole number at least 1, not 'x'"),
        ("event-store list --trait size", "must be NAME=VALUE"),
        ("event-store list --trait size>x", "must have a number after >"),
    ],
)
def test_bad_usage(words: str, saying: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert saying in run(capsys, *words.split(), status=2)


def test_without_a_database_there_is_nothing(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "deadletters", "list") == "no dead letters\n"
    assert run(capsys, "deadletters", "drop", "1") == "0 dead letters dropped\n"
    assert run(capsys, "event-store", "list") == "no events\n"
    assert run(capsys, "deliveries", "list") == "nothing is on its way\n"
    assert "no database" in run(capsys, "deadletters", "show", "1", status=2)
