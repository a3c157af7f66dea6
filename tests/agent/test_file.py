"""The command ``converge agent`` with a file: what the first minutes need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.agent.agent import Agent
from converge.agent.gathering import Batching
from converge.bus.source import FileSource
from converge.cli import main
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
    for name in ("CONVERGE_DB", "CONVERGE_BUS"):
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
        (("--bus", "fake://"), "an agent cannot receive from fake://"),
        (("--bus", "rabbit://h/", "--topic", "/x"), "a topic is TOPIC or EXCHANGE/TOPIC"),
        (("--bus", "rabbit://h/?topic=x"), "name topics with --topic"),
    ],
)
def test_mistakes_are_told_at_the_first_door(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in run(capsys, "--pipeline", "pipeline.json", *words, status=2)
    assert not (folder / "converge.db").exists()


def test_what_goes_back_comes_again_before_the_rest(folder: Path) -> None:
    source = FileSource("notifications.jsonl")
    first, second = source.receive(0), source.receive(0)
    assert first is not None
    assert second is not None
    source.requeue([first, second])
    assert [source.receive(0), source.receive(0)] == [first, second]
    source.close()


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
