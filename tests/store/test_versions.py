"""Versions of one resource, and which of them replaces which."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

import converge
from converge.sql.schema import resource
from converge.testing import FakeWorld, StepEngine
from tests.templates import template


def fixed(size: int) -> converge.Template:
    return template(
        {
            "f": {"type": "fixed", "properties": {"size": size}},
            "g": {"properties": {"of": {"get_resource": "f"}}},
        }
    )


def versions(store: converge.Store) -> list[Any]:
    columns = resource.c.physical_id, resource.c.replaces, resource.c.replaced_by, resource.c.id
    with store.transaction() as tx:
        return list(tx.execute(select(*columns).where(resource.c.name == "f").order_by("id")).all())


def test_a_replacement_is_one_again_after_a_rollback_that_did_not_delete_it(
    store: converge.Store,
) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    stack = store.create_stack("s", fixed(1))
    engine.run()
    store.update_stack("s", fixed(2))
    engine.run(until="update f")
    old, new = versions(store)
    assert (old.replaced_by, new.replaces) == (new.id, old.id)

    # the rollback keeps the old one, and nothing of it is done
    store.rollback_stack("s")
    old, new = versions(store)
    assert (old.replaced_by, new.replaces) == (None, old.id)

    store.update_stack("s", fixed(2))
    old, new = versions(store)
    assert (old.replaced_by, new.replaces) == (new.id, old.id)
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert world.log[-1] == "delete f.0"
    [left] = versions(store)
    assert (left.physical_id, left.replaces, left.replaced_by) == ("f.1", None, None)
