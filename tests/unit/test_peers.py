"""How peers are measured: what is checked of what they did, and what is shown of it."""

from __future__ import annotations

import venv
from pathlib import Path

import pytest

from benchmarks import environments, graphs
from benchmarks.environments import NotInstalled
from benchmarks.peers import report
from benchmarks.peers.common import levels
from benchmarks.peers.running import Failed, Result, check_order

DIAMOND = {"top": ["left", "right"], "left": ["bottom"], "right": ["bottom"], "bottom": []}


def test_levels_hold_the_nodes_whose_requirements_are_before() -> None:
    assert levels(DIAMOND) == [["bottom"], ["left", "right"], ["top"]]


def test_a_node_that_was_done_too_early_fails_its_peer() -> None:
    right = [("bottom", 1.0), ("right", 2.0), ("left", 3.0), ("top", 4.0)]
    check_order(DIAMOND, right)
    with pytest.raises(Failed, match="left was done before bottom"):
        check_order(DIAMOND, [("left", 0.5), *right])
    with pytest.raises(Failed, match="top was done before right"):
        check_order(DIAMOND, [one for one in right if one[0] != "right"])


def test_a_table_shows_multiples_and_why_there_is_none() -> None:
    cases = {
        "fan-in, 10": report.keep(Result(11, seconds=0.1, done=11, memory=20), 1000),
        "fan-in, 100": report.keep(Result(101, reason="60 s were over"), 1000),
    }
    peer = {"name": "Heat", "version": "27", "cases": cases}
    found = {"date": "2026-11-28", "where": "here", "peers": [peer], "libraries": []}
    lines = report.table(found)
    assert "     - 0.11 (110/s)" in lines
    assert f"     - {report.NONE}" in lines
    assert "- Heat: fan-in, 100: 60 s were over" in lines


def test_an_environment_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(home: Path, with_pip: bool) -> None:
        (home / "bin").mkdir(parents=True)
        python = home / "bin" / "python"
        python.write_text("#!/bin/sh\necho looking >&2; echo 'ERROR: no network' >&2; exit 1\n")
        python.chmod(0o755)

    (tmp_path / "peer.txt").write_text("peer==1\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(venv, "create", create)
    with pytest.raises(NotInstalled, match=r"^ERROR: no network$"):
        environments.prepare(tmp_path / "made", "peer")


@pytest.mark.parametrize(
    ("graph", "nodes", "edges"),
    [
        (graphs.chain(5), 5, 4),
        (graphs.fan_in(5), 6, 5),
        (graphs.fan_out(5), 6, 5),
        (graphs.bipartite(3), 6, 9),
        (graphs.unconnected(4), 4, 0),
    ],
)
def test_a_graph_has_the_nodes_and_edges_of_its_kind(
    graph: graphs.Requires, nodes: int, edges: int
) -> None:
    assert len(graph) == nodes
    assert sum(map(len, graph.values())) == edges
    assert sum(map(len, levels(graph))) == nodes
