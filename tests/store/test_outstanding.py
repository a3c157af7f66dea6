"""What a node waits for is the same whether all before it is read, or a way back is gone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlalchemy import select

import converge
from converge.model import Kind, NodeState
from converge.sql import outstanding
from converge.sql.outstanding import list_nodes_of, list_outstanding
from converge.sql.schema import stack, sync_point, traversal
from converge.sql.transaction import Transaction
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

LAYERS, WIDTH = 6, 5


def layered(size: int, width: int = WIDTH) -> converge.Template:
    """Layers of which each node requires some of the layer before."""
    chance = random.Random(4)
    names = [[f"{layer}.{place}" for place in range(width)] for layer in range(LAYERS)]
    needs = {
        name: chance.sample(names[n - 1], 2) if n else []
        for n in range(LAYERS)
        for name in names[n]
    }
    return template(needs, properties={"size": size})


@pytest.fixture
def at_work(fresh_store: Callable[..., converge.Store]) -> StepEngine:
    """An engine that has done some of a stack, and is at some more."""
    store = fresh_store()
    store.create_stack("s", layered(1))
    engine = StepEngine(store, FakeWorld().types())
    for _ in range(8):
        engine.step()
    engine.claim(2)
    return engine


def waiting_updates(tx: Transaction) -> list[tuple[int, int]]:
    query = select(sync_point.c.traversal_id, sync_point.c.node).where(
        sync_point.c.state == NodeState.WAITING, sync_point.c.kind == Kind.UPDATE
    )
    return [(row.traversal_id, row.node) for row in tx.execute(query)]


def test_the_way_back_leads_to_the_same(
    at_work: StepEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_work.store.transaction() as tx:
        keys = waiting_updates(tx)
        whole = [list_outstanding(tx, *key) for key in keys]
        monkeypatch.setattr(outstanding, "SCANNED", 0)
        assert [list_outstanding(tx, *key) for key in keys] == whole
        assert len(whole) > WIDTH
        assert {found.more for found in whole} == {0}
        assert any(not one.direct for found in whole for one in found.found)

        # of a way that is too long, only the beginning is known
        monkeypatch.setattr(outstanding, "STEPS", 1)
        short = [list_outstanding(tx, *key) for key in keys]
        assert [[one for one in found.found if one.direct] for found in whole] == [
            found.found for found in short
        ]


def test_what_is_not_read_is_counted(at_work: StepEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = at_work.store
    assert "waits for '" in store.why("s", f"{LAYERS - 1}.0")[0]["message"]
    at_work.run()
    store.delete_stack("s")
    monkeypatch.setattr(outstanding, "SCANNED", 1)
    messages = [store.why("s", f"0.{place}")[0]["message"] for place in range(WIDTH)]
    assert all(" waits for " in one for one in messages)
    assert any(one.endswith((" other", " others", " more")) for one in messages)


@pytest.mark.parametrize("probes", [2, 3, 32])
def test_the_nodes_of_a_resource_are_found(
    at_work: StepEngine, probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outstanding, "_PROBES", probes)
    check_search(at_work.store, first=True)
    at_work.run()
    # new resources are in between, and old ones go
    at_work.store.update_stack("s", layered(2, WIDTH + 1))
    check_search(at_work.store, first=False)
    at_work.step()
    at_work.store.update_stack("s", layered(3))
    check_search(at_work.store, first=False)
    at_work.store.delete_stack("s")
    check_search(at_work.store, first=False)


def check_search(store: converge.Store, *, first: bool) -> None:
    with store.transaction() as tx:
        current = tx.execute(select(stack.c.traversal_id)).scalar_one()
        mine = traversal.c.id == current
        total = tx.execute(select(traversal.c.total).where(mine)).scalar_one()
        query = select(sync_point.c.resource_id, sync_point.c.node, sync_point.c.kind).where(
            sync_point.c.traversal_id == current, sync_point.c.resource_id.is_not(None)
        )
        nodes: dict[int, dict[str, int]] = {}
        for row in tx.execute(query):
            nodes.setdefault(row.resource_id, {})[row.kind] = row.node
        assert len(nodes) >= LAYERS * WIDTH
        for id_, kinds in nodes.items():
            found = list_nodes_of(tx, current, [id_], total, first=first)
            assert found in ([kinds.get(Kind.UPDATE)], sorted(kinds.values()))
        assert list_nodes_of(tx, current, [max(nodes) + 1], total, first=first) == []
