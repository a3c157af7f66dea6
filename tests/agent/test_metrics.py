"""What an agent says of itself: its metrics, and its settings in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from converge import Store
from converge.agent.agent import Agent
from converge.agent.counts import GroupCounts
from converge.agent.gathering import Batching
from converge.bus.carrier import CarrierError
from converge.bus.source import FileSource, Source
from converge.cli import main
from converge.service.agent_metrics import AgentMetrics
from tests.acceptance.shell import Shell
from tests.agent.world import PIPELINE, body, pipeline

PAGE = Path(__file__).parents[2] / "doc" / "agents.rst"
FILE = """\
[agent]
pipeline = pipeline.json
source = file:notifications.jsonl
batch_size = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where three notifications are, one of them twice, and something else."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONVERGE_DB", "CONVERGE_BUS"):
        monkeypatch.delenv(name, raising=False)
    lines = [body(0), body(1), body(0), b"{nonsense", body(2)]
    (tmp_path / "notifications.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "pipeline.json").write_text(json.dumps(PIPELINE))
    (tmp_path / "converge.conf").write_text(FILE)
    return tmp_path


def test_what_an_agent_does_is_counted(folder: Path, sqlite_store: Store) -> None:
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    sources: list[FileSource | None] = [None, FileSource("notifications.jsonl")]

    def open_source() -> Source:
        source = sources.pop(0)
        if source is None:
            raise CarrierError("away")
        return source

    agent = Agent(sqlite_store, pipeline(), open_source, Batching(3, 9.0), metrics)
    agent.stopping.set()  # an outage is not waited out
    agent.turn()
    agent.stopping.clear()
    metrics.watch(agent, sqlite_store)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"converge_{name}", labels)

    metrics.look()
    assert (value("agents_ready"), value("agent_outages_total")) == (0, 1)
    agent.turn()
    metrics.look()
    assert value("agents_ready") == 1
    assert metrics.is_ready
    agent.run()
    metrics.look()
    assert value("agents_ready") == 0
    assert value("messages_received_total", bus="file:notifications.jsonl") == 5
    assert value("messages_total", result="new") == 3
    assert value("messages_total", result="known") == 1
    assert value("dead_letters_total") == 1
    assert (value("batch_messages_count"), value("batch_messages_sum")) == (2, 5)
    assert value("batch_age_seconds_count") == value("batch_seconds_count") == 2
    assert value("delivered_total", sink="log") == 3
    assert value("sink_seconds_count", sink="log") == 2
    assert value("agent_last_batch_timestamp_seconds")


def test_what_an_agent_is_in_its_group_is_told(sqlite_store: Store) -> None:
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    counts = GroupCounts(partitions=4, lag=7, lag_seconds=2.5, hints=3, refused={"forged": 2})
    group: Any = SimpleNamespace(counts=counts, is_behind=True)
    agent: Any = SimpleNamespace(sharing=group, is_ready=True)
    metrics._agent, metrics._store = agent, sqlite_store
    metrics.look()
    counts.refused["replayed"] = 1
    metrics.look()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"converge_group_{name}", labels)

    assert (value("partitions"), value("lag"), value("lag_seconds")) == (4, 7, 2.5)
    assert value("resting") == 1
    wanted = {"opened": 3, "redelivered": 0, "unsent": 0, "forged": 2, "replayed": 1}
    assert {one: value("messages_total", result=one) for one in wanted} == wanted


def test_every_metric_is_in_the_guide() -> None:
    registry = CollectorRegistry()
    AgentMetrics(registry)
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    text = PAGE.read_text(encoding="utf-8")
    told = set(re.findall(r"^``(converge_\w+)``", text, re.MULTILINE))
    assert told == names - {"converge_connections_used"}


def test_a_file_has_its_settings_and_the_command_line_comes_first(folder: Path) -> None:
    shell = Shell(folder)
    words = ("agent", "--config-file", "converge.conf", "--json")
    done = json.loads(shell.run(*words)[0])
    assert (done["batches"], done["recorded"]) == (3, 3)
    assert done["buses"] == {"file:notifications.jsonl": 5}
    done = json.loads(shell.run(*words, "--batch-size", "1")[0])
    assert (done["batches"], done["duplicates"]) == (5, 4)


def test_what_a_group_needs_may_be_in_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "group = g\nsecret_file = secret\npartitions = 3\nkey = instance_id\nkeep_events = 1\n"
    (folder / "converge.conf").write_text(FILE + more)
    (folder / "secret").write_text("a secret of the tests")
    words = ("agent", "--config-file", "converge.conf", "--json")
    done = json.loads(Shell(folder).run(*words)[0])
    # all were sent before what is kept
    assert (done["group"]["partitions"], done["dead_letters"], done["recorded"]) == (3, 5, 0)
    shown = json.loads(Shell(folder).run("group", "show", "g", "--json")[0])
    assert shown["key"] == "instance_id"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bus", "file:notifications.jsonl"), "an agent needs --pipeline FILE"),
        (("--pipeline", "pipeline.json", "--bus", "fake://", "--listen", "x"), "must be HOST:PORT"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["agent", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "converge.db").exists()
