"""The command ``converge agent`` with a file: what the first minutes need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.agent.agent import Agent
from converge.agent.gathering import Batching
from converge.bus import source as source_
from converge.bus.source import FileSource
from converge.cli import main
from converge.group import group
from tests.agent.world import PIPELINE, pipeline, reasons, recorded

LINE = {
    "event_type": "volume.create.end",
    "publisher_id": "volume.a",
    "payload": {"volume_id": "v", "size": 3},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file of notifications and a pipeline are."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONVERGE_DB", "CONVERGE_BUS", "CONVERGE_GROUP_SECRET"):
        monkeypatch.delenv(name, raising=False)
    lines = [json.dumps({**LINE, "message_id": f"m-{number}"}) for number in range(5)]
    text = "\n".join([*lines, "", json.dumps(LINE), json.dumps(LINE), "{nonsense", lines[0], ""])
    (tmp_path / "notifications.jsonl").write_text(text)
    (tmp_path / "pipeline.json").write_text(json.dumps(PIPELINE))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    assert main(["agent", *words]) == status
    out, err = capsys.readouterr()
    return json.loads(out) if status == 0 else err


WORDS = ("--pipeline", "pipeline.json", "--bus", "file:notifications.jsonl", "--json")


def test_a_file_is_taken_through_the_pipeline_and_the_agent_ends(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, *WORDS, "--batch-size", "4")
    assert (done["received"], done["recorded"], done["duplicates"]) == (9, 7, 1)
    assert (done["dead_letters"], done["batches"], done["delivered"]) == (1, 3, {"log": 7})
    # lines without an id have one that is theirs, too
    again = run(capsys, *WORDS)
    assert (again["recorded"], again["duplicates"], again["delivered"]) == (0, 8, {})
    with converge.connect("sqlite:///converge.db") as store:
        assert len(recorded(store)) == 7
        assert reasons(store) == ["not_json", "not_json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "an agent needs --bus URL"),
        (("--bus", "file:nowhere"), "file:nowhere cannot be read: No such file"),
        (("--bus", "kafka://h/"), "an agent cannot receive from kafka://h/"),
        (("--bus", "fake://h"), "nothing may follow fake://"),
        (("--bus", "rabbit://h/", "--topic", "/x"), "a topic is TOPIC or EXCHANGE/TOPIC"),
        (("--bus", "rabbit://h/?topic=x"), "name topics with --topic"),
    ],
)
def test_mistakes_are_told_at_the_first_door(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in run(capsys, "--pipeline", "pipeline.json", *words, status=2)
    assert not (folder / "converge.db").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--group", "g"), "an agent of a group needs the group's secret: --secret-file FILE"),
        (("--group", "g", "--secret-file", "nowhere"), "the secret in nowhere cannot be read"),
        (("--group", "g", "--secret-file", "short"), "has at least 16 characters"),
        (("--key", "host"), "--key is for agents of a --group"),
    ],
)
def test_mistakes_about_the_group_are_told_at_the_first_door(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    (folder / "short").write_text("hush")
    assert message in run(capsys, *WORDS[:-1], *words, status=2)
    assert not (folder / "converge.db").exists()


def test_an_agent_of_a_group_takes_a_file_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVERGE_GROUP_SECRET", "a secret of the tests")
    words = (*WORDS[:-1], "--group", "agents")
    done = run(capsys, *words, "--json", "--partitions", "3", "--batch-size", "4")
    assert (done["received"], done["recorded"], done["delivered"]) == (9, 7, {"log": 7})
    assert (done["group"]["partitions"], done["group"]["refused"]) == (3, {})
    with converge.connect("sqlite:///converge.db") as store:
        view = group.show(store.database, "agents")
    assert (view.members, [row.engine_id for row in view.partitions]) == ([], [None] * 3)
    # the second time it is told from the first
    assert "has 3 partitions" in run(capsys, *words, "--partitions", "4", status=2)
    monkeypatch.setenv("CONVERGE_GROUP_SECRET", "another secret, not of it")
    assert "has another secret than this member" in run(capsys, *words, status=2)


def test_what_goes_back_comes_again_before_the_rest(folder: Path) -> None:
    source = FileSource("notifications.jsonl")
    first, second = source.receive(0), source.receive(0)
    assert first is not None
    assert second is not None
    source.requeue([first, second])
    assert [source.receive(0), source.receive(0)] == [first, second]
    source.close()


def test_of_a_line_that_is_too_long_no_more_than_its_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_, "LONGEST_LINE", 10)
    path = tmp_path / "lines"
    path.write_bytes(b"a" * 35 + b"\n" + b"b" * 10 + b"\n" + b"c" * 9 + b"\n" + b"d" * 30)
    source = FileSource(str(path))
    found = [source.receive(0) for _ in range(5)]
    source.close()
    assert [(one.body, one.headers["line"]) for one in found if one is not None] == [
        (b"a" * 10, 1),
        (b"b" * 10, 2),
        (b"c" * 9, 3),
        (b"d" * 10, 4),
    ]
    assert source.ended


def test_an_agent_that_is_stopped_receives_nothing_more(folder: Path) -> None:
    with converge.connect("sqlite:///a.db", create_schema=True) as store:
        agent = Agent(
            store, pipeline(), lambda: FileSource("notifications.jsonl"), Batching(2, 9.0)
        )
        agent.turn()
        agent.stop()
        agent.run()
        assert agent.counts.received == 2
        assert recorded(store) == ["m-0", "m-1"]
