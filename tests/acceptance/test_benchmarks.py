"""The benchmarks still run, and measure what they say: each once, as small as it can be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends import Backend
from tests.trouble.faults import only

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("database", [only("postgresql")], indirect=True)
def test_the_engine_is_measured_beside_a_loop_and_its_own_writes(database: Backend) -> None:
    url = database.empty()
    try:
        said = run("engine", "--only", "limits", "--nodes", "40", "--rounds", "1", "--url", url)
    finally:
        database.discard(url)
    for what in ("create", "unchanged", "changed", "delete"):
        for limit in ("by hand", "its row writes alone"):
            found = re.search(rf"^ratio {what} / {limit}: (\S+) ", said, re.MULTILINE)
            assert found is not None, said
            assert float(found[1].replace(",", "")) > 0
    # 40 resources and as many sync points, that of the stack, the stack, its template and traversal
    found = re.search(
        r"^  create: .* with the start: (\S+), rows updated: (\S+),", said, re.MULTILINE
    )
    assert found is not None, said
    assert float(found[1]) >= 2
    assert float(found[2]) >= 1


@pytest.mark.parametrize("database", [only("postgresql")], indirect=True)
def test_converge_is_measured_as_its_peers_are(database: Backend) -> None:
    url = database.empty()
    try:
        said = run(
            "peers", "--smaller", "--peers", "converge", "--cases", "layered, 100;recovery",
            "--url", url,
        )  # fmt: skip
    finally:
        database.discard(url)
    assert re.search(r"^converge: layered, 100: \S+ nodes/s ", said, re.MULTILINE), said
    assert re.search(r"^converge: recovery: \S+ s until the next node, ", said, re.MULTILINE), said


def test_the_cost_of_a_node_is_measured_in_several_shapes() -> None:
    said = run(
        "shapes", "--nodes", "80", "--shapes", "star into one;many stacks", "--url", "sqlite://"
    )
    for shape, edges in (("star into one", 79), ("many stacks", 72)):
        for action in ("create", "unchanged", "delete"):
            what = rf"^{shape}, 80 nodes, {edges} edges: {action} \S+ s = (\S+) nodes/s"
            found = re.search(what, said, re.MULTILINE)
            assert found is not None, said
            assert float(found[1].replace(",", "")) > 0


@pytest.mark.parametrize("database", [only("postgresql")], indirect=True)
def test_more_engines_are_measured_beside_what_is_predicted(database: Backend) -> None:
    url = database.empty()
    try:
        said = run("scaling", "--smaller", "--url", url)
    finally:
        database.discard(url)
    for engines in (1, 2):
        what = rf"^{engines} engine\(s\): (\S+) nodes/s measured .* (\S+) predicted"
        found = re.search(what, said, re.MULTILINE)
        assert found is not None, said
        assert all(float(rate.replace(",", "")) > 0 for rate in found.groups())


@pytest.fixture
def rabbitmq(_databases: dict[str, Backend]) -> Backend:
    return _databases["rabbitmq"]


@pytest.mark.rabbitmq
@pytest.mark.parametrize("database", [only("postgresql")], indirect=True)
def test_batches_of_notifications_are_measured_beside_those_of_oslo_messaging(
    database: Backend, rabbitmq: Backend
) -> None:
    url, bus = database.empty(), rabbitmq.empty()
    broker = bus.partition("?")[0]
    try:
        said = run(
            "notifications", "--only", "statements", "--only", "batches", "--number", "150",
            "--rounds", "1", "--url", url, "--broker", broker,
        )  # fmt: skip
    finally:
        database.discard(url)
        rabbitmq.discard(bus)
    assert re.search(r"^ratio statements of a batch, 1,000 / 10: 1.00 ", said, re.MULTILINE), said
    for other in ("batches of 1", "oslo.messaging"):
        what = rf"^ratio notifications/s, batches of 100 / {other}: (\S+) "
        found = re.search(what, said, re.MULTILINE)
        assert found is not None, said
        assert float(found[1]) > 0


def test_an_update_with_nothing_to_do_is_measured() -> None:
    said = run("nothing", "--smaller")
    assert re.search(
        r"^20 resources: seconds: \S+ \(rounds: .*; wanted: at most 0\.7: ", said, re.M
    )
