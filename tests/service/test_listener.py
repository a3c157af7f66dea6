"""What ``--listen`` answers: where, to whom, and about what."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import converge
from converge import Store
from converge.errors import BadInput, StoreError
from converge.inspection.pools import count_stranded
from converge.service.listener import Listener, parse_place
from converge.service.metrics import CACHED, DatabaseMetrics, EngineMetrics, Folder, count_ready
from converge.sql import gauges
from converge.sql.database import Database
from converge.testing import FakeWorld, StepEngine
from tests.acceptance.shell import LIMIT, Shell
from tests.templates import template

SLOW = """\
resources:
  quick:
    type: command
    properties: {create: "true", delete: "true"}
  slow:
    type: command
    depends_on: quick
    properties: {create: "echo > started; cat go", delete: "true"}
  last:
    type: command
    depends_on: slow
    properties: {create: "exit 3", delete: "true"}
"""


def get(address: tuple[str, int], path: str) -> tuple[int, str]:
    host = "127.0.0.1" if address[0] == "0.0.0.0" else address[0]
    try:
        with urllib.request.urlopen(f"http://{host}:{address[1]}{path}", timeout=LIMIT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":0", ("", 0)),
        ("[::1]:80", ("::1", 80)),
        ("a.example:65535", ("a.example", 65535)),
    ],
)
def test_a_place_is_a_host_and_a_port(text: str, place: tuple[str, int]) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text", ["9464", "host", "host:", "host:65536", "::1:80", "http://a:1", ""]
)
def test_another_place_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"listen must be HOST:PORT, such as 127\.0\.0\.1:9464"):
        parse_place(text)


def test_it_answers_three_paths_and_refuses_a_place_that_is_taken() -> None:
    ready = [False]
    listener = Listener("127.0.0.1:0", lambda: ready[0], lambda: ("text/plain", b"one 1\n"))
    try:
        assert get(listener.address, "/healthz") == (200, "ok\n")
        assert get(listener.address, "/readyz") == (503, "not ready\n")
        ready[0] = True
        assert get(listener.address, "/readyz") == (200, "ready\n")
        assert get(listener.address, "/metrics?name[]=one") == (200, "one 1\n")
        assert get(listener.address, "/etc/passwd")[0] == 404
        with pytest.raises(BadInput, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already"):
            Listener(f"127.0.0.1:{listener.address[1]}", lambda: True, lambda: ("", b""))
    finally:
        listener.close()


def samples(collector: DatabaseMetrics) -> dict[str, float]:
    return {
        sample.labels.get("state", sample.name): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def test_nodes_are_counted_by_state_up_to_a_limit(store: Store) -> None:
    store.create_stack("shop", template({"a": [], "b": [], "c": ["a", "b"]}))
    counts = {"READY": 2, "LATER": 0, "LIMITED": 0, "RUNNING": 0, "BLOCKED": 0}
    assert store.database.read(lambda tx: gauges.count_nodes(tx, 10)) == counts
    assert store.database.read(lambda tx: gauges.count_nodes(tx, 1))["READY"] == 1
    world = FakeWorld()
    StepEngine(store, world.types()).run()
    counts["READY"] = 0
    assert store.database.read(lambda tx: gauges.count_nodes(tx, 10)) == counts


class Waits(converge.ResourceType):
    """Is never ready."""

    def create(self, context: converge.Context, properties: Any) -> str:
        raise converge.Wait(3600, "BUILDING")


def test_what_nobody_alive_can_take_and_what_waits_is_counted(store: Store) -> None:
    def counted(limit: int = 10) -> tuple[int, int]:
        return store.database.read(
            lambda tx: (count_stranded(tx, limit), gauges.count_waiting(tx, limit))
        )

    world = FakeWorld()
    store.create_stack("near", template(a=[], b=[]))
    store.create_stack("far", template(a=[], b=[], c=[]), queue="far")
    assert counted() == (5, 0)
    assert counted(2) == (2, 0)
    engine = StepEngine(store, {"fake": Waits()})
    assert counted() == (3, 0)
    engine.run()
    assert counted() == (3, 2)
    StepEngine(store, world.types(), queues=["far"])
    assert counted() == (0, 2)


@pytest.mark.sqlite
def test_the_database_is_asked_once_in_a_while(store: Store) -> None:
    at = [0.0]
    opened: list[Database] = []

    def open_database() -> Database:
        if at[0] < CACHED:
            raise StoreError("away")
        opened.append(store.database)
        return store.database

    collector = DatabaseMetrics(open_database, lambda: at[0])
    assert samples(collector) == {"converge_database_up": 0}
    at[0] = CACHED
    assert samples(collector) == {
        "converge_database_up": 1,
        **{"READY": 0, "LATER": 0, "LIMITED": 0, "RUNNING": 0, "BLOCKED": 0},
        **{"converge_nodes_waiting": 0, "converge_nodes_stranded": 0},
    }
    store.create_stack("shop", template({"a": []}))
    at[0] = 2 * CACHED - 0.1
    assert samples(collector)["READY"] == 0
    at[0] = 2 * CACHED
    assert samples(collector)["READY"] == 1
    assert len(opened) == 1


def metric(text: str, name: str) -> float:
    """The sum of a metric's samples, whatever their other labels are."""
    name, _, label = name.partition("{")
    lines = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in lines if label.rstrip("}") in labels)


@pytest.fixture
def slow(shell: Shell) -> Shell:
    """A folder with a stack to create, whose second handler waits."""
    for name in ("started", "go"):
        os.mkfifo(shell.folder / name)
    shell.environment["CONVERGE_DB"] = f"sqlite:///{shell.folder}/a.db"
    shell.write("slow.yaml", SLOW)
    shell.run("db", "upgrade")
    shell.run("up", "slow.yaml", "--no-wait")
    return shell


@pytest.mark.sqlite
@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_engine_gives_its_metrics_and_says_whether_it_is_ready(
    processes: str, slow: Shell
) -> None:
    process = slow.start(
        *("engine", "--listen", "127.0.0.1:0", "--processes", processes, "--log-format", "json"),
        environment={"TMPDIR": str(slow.folder)},
    )
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    records = (json.loads(line) for line in lines)
    place = next(one["args"] for one in records if one["name"] == "converge.service.listener")
    address = (place[0], place[1])
    (slow.folder / "started").read_text()
    assert get(address, "/healthz")[0] == 200
    while get(address, "/readyz")[0] != 200:
        pass
    status, text = get(address, "/metrics")
    assert status == 200
    assert metric(text, "converge_database_up") == 1
    assert metric(text, 'converge_nodes{state="RUNNING"}') == 1
    assert metric(text, "converge_handlers_running") == 1
    assert metric(text, 'converge_handler_seconds_count{result="DONE"}') == 1
    assert metric(text, 'converge_outcomes_total{result="DONE"}') == 1
    assert metric(text, "converge_commit_outcomes_sum") == 1
    assert metric(text, "converge_claimed_nodes_sum") >= 1
    assert 0 < metric(text, "converge_commit_seconds_sum") < LIMIT
    assert metric(text, "converge_claim_seconds_count") >= 1
    assert 0 <= metric(text, "converge_lease_age_seconds") < 15
    assert metric(text, "converge_workers") in {8, 8 * int(processes)}
    process.send_signal(signal.SIGTERM)
    next(one for one in records if "stopping" in one["message"])
    while get(address, "/readyz")[0] != 503:
        pass
    (slow.folder / "go").write_text("")
    for _ in records:
        pass
    assert process.wait(LIMIT) == 143
    assert not [name for name in slow.names() if name.startswith("converge-metrics")]


@pytest.mark.sqlite
def test_every_metric_is_in_the_guide(store: Store) -> None:
    page = (Path(__file__).parents[2] / "doc" / "operating.rst").read_text(encoding="utf-8")
    page = page.partition("\nMetrics\n=======\n")[2].partition("\nLeases\n======\n")[0]
    registry = CollectorRegistry()
    EngineMetrics(registry)
    registry.register(DatabaseMetrics(lambda: store.database))
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    assert set(re.findall(r"^``(converge_\w+)``", page, re.MULTILINE)) == names


def test_what_a_process_that_ended_was_doing_is_forgotten() -> None:
    folder = Folder()
    try:
        registry = CollectorRegistry()
        folder.collect_into(registry)
        assert count_ready(registry, "converge_engines_ready") == 0
        folder.forget(os.getpid())
    finally:
        folder.remove()
    assert not os.path.exists(folder.path)


def test_a_file_that_a_process_is_making_is_read_once_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Folder()
    try:
        registry = CollectorRegistry()
        folder.collect_into(registry)
        path = Path(folder.path) / "counter_1.db"
        path.touch()
        monkeypatch.setattr(
            "converge.service.metrics.time.sleep", lambda seconds: path.write_bytes(bytes(4096))
        )
        assert count_ready(registry, "converge_engines_ready") == 0
        assert path.stat().st_size == 4096
        path.write_bytes(b"")
        monkeypatch.setattr("converge.service.metrics.time.sleep", lambda seconds: None)
        with pytest.raises(struct.error):
            count_ready(registry, "converge_engines_ready")
    finally:
        folder.remove()


@pytest.mark.sqlite
def test_a_place_that_is_wrong_ends_it_before_anything_is_done(shell: Shell) -> None:
    for words in ((), ("--processes", "2")):
        _, err = shell.run("engine", "--listen", "nowhere", *words, status=2)
        assert "listen must be HOST:PORT" in err
    assert shell.names() == set()
