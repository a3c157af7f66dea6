"""The simulator of fleets: on small graphs, what it says can be computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import graphs
from benchmarks.scaling import Measured, calibrate
from benchmarks.simulator import Costs, Disk, Graph, Setting, SimulatedEngine, Simulation, predict

NOTHING = Costs(turn=0, turn_node=0, worker_node=0, server=0, server_node=0, commit=0)
#: How long a thread that has nothing to do may oversleep, for each of the transactions of a node.
SLACK = 2 * SimulatedEngine.IDLE


def seconds(requires: graphs.Requires, costs: Costs, setting: Setting | None = None) -> float:
    return len(requires) / predict([requires], costs, setting or Setting())


def test_a_node_takes_a_claim_a_handler_and_a_completion() -> None:
    costs = Costs(
        turn=0.01, turn_node=0.02, worker_node=0.04, server=0.03, server_node=0.06, commit=0.005
    )
    transaction = (0.01 + 0.02 / 2) + (0.03 + 0.06 / 2) + 0.005
    taken = seconds(graphs.unconnected(1), costs, Setting(handler=0.5))
    assert taken == pytest.approx(2 * transaction + 0.04 + 0.5, abs=SLACK)


def test_a_chain_is_not_quicker_with_more_engines() -> None:
    costs = replace(NOTHING, server=0.01, commit=0.02)
    alone = seconds(graphs.chain(20), costs)
    # each transaction completes a node and claims the next
    assert alone == pytest.approx(21 * 0.03, abs=21 * SLACK)
    together = seconds(graphs.chain(20), costs, Setting(fleets=4, engines=2, database_cores=8))
    assert together >= alone - SLACK


def test_engines_whose_interpreter_is_the_limit_add_up() -> None:
    costs = replace(NOTHING, turn_node=0.001)
    many = graphs.unconnected(4000)
    setting = Setting(window=100, cores=4, database_cores=1)
    alone, together = (predict([many], costs, replace(setting, engines=n)) for n in (1, 4))
    assert alone == pytest.approx(1000, rel=0.05)
    assert together == pytest.approx(4000, rel=0.1)


def test_engines_share_the_cores_of_their_machine() -> None:
    costs = replace(NOTHING, turn_node=0.001)
    setting = Setting(window=100, cores=2, database_cores=1, engines=4)
    rate = predict([graphs.unconnected(4000)], costs, setting)
    assert rate == pytest.approx(2000, rel=0.1)


def test_the_cores_of_the_server_are_a_limit_for_all_fleets() -> None:
    costs = replace(NOTHING, server_node=0.001)
    setting = Setting(window=100, fleets=8, database_cores=2)
    rate = predict([graphs.unconnected(4000)], costs, setting)
    assert rate == pytest.approx(2000, rel=0.1)
    assert rate <= 2000


def test_a_server_on_the_machine_of_the_engines_shares_its_cores() -> None:
    costs = replace(NOTHING, server_node=0.001, turn_node=0.001)
    setting = Setting(window=100, engines=4, cores=2)
    rate = predict([graphs.unconnected(4000)], costs, setting)
    assert rate == pytest.approx(1000, rel=0.1)
    with pytest.raises(ValueError, match="one fleet"):
        predict([graphs.chain(2)], NOTHING, Setting(fleets=2))


def test_slow_handlers_are_limited_by_the_workers() -> None:
    setting = Setting(workers=8, handler=0.1)
    rate = predict([graphs.unconnected(400)], NOTHING, setting)
    assert rate == pytest.approx(80, rel=0.05)


def test_commits_that_wait_for_the_disk_are_written_together() -> None:
    disk = Disk(1.0)
    assert disk.commit(10.0) == 11.0
    # while that is written
    assert [disk.commit(10.2), disk.commit(10.9)] == [12.0, 12.0]
    # while these are written
    assert disk.commit(11.5) == 13.0
    assert disk.commit(20.0) == 21.0


def test_who_completes_into_the_same_node_waits() -> None:
    costs = replace(NOTHING, commit=0.01)
    setting = Setting(window=10, engines=10, cores=10, database_cores=10)
    apart = seconds(graphs.unconnected(100), costs, setting)
    into_one = seconds(graphs.fan_in(100), costs, setting)
    # of the claims, and then of the completions, one is written first, and the others together
    assert apart == pytest.approx(4 * 0.01, abs=SLACK)
    # of the completions, one is written after the other
    assert into_one >= (2 + 10) * 0.01


def test_what_becomes_ready_is_seen_when_it_is_committed() -> None:
    graph = Graph([graphs.chain(3)])
    assert list(graph.ready) == [0]
    assert graph.claim(5) == [0]
    assert graph.arrive([0]) == [1]
    assert not graph.ready


def test_each_node_is_done_once() -> None:
    graph = Graph([graphs.layered(300, 30), graphs.bipartite(20)])
    costs = replace(NOTHING, turn=0.001, server=0.001, commit=0.001)
    Simulation(graph, costs, Setting(fleets=2, engines=2, window=20, database_cores=2)).run()
    assert graph.left == 0
    assert not any(graph.pending)
    assert not graph.ready


def test_costs_are_told_apart_by_two_runs() -> None:
    # 2 ms a transaction and 100 µs a node; of the server 1 ms and 50 µs; a handler 10 µs
    def measured(nodes: int, commits: int) -> Measured:
        cpu, server = 0.002 * commits + 1e-4 * nodes, 0.001 * commits + 5e-5 * nodes
        return Measured(nodes, 1.0, cpu, 1e-5 * nodes, server, commits)

    costs = calibrate(measured(10_000, 50), measured(1_000, 200), commit=0.003)
    assert costs.turn == pytest.approx(0.002)
    assert costs.turn_node == pytest.approx(1e-4)
    assert costs.worker_node == pytest.approx(1e-5)
    assert costs.server == pytest.approx(0.001)
    assert costs.server_node == pytest.approx(5e-5)
    assert costs.commit == 0.003
