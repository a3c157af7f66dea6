"""A long template is stored in few bytes; whoever asks for it need not know."""

from __future__ import annotations

import random
import string

import pytest
from sqlalchemy import text

from converge import Store, Template
from converge.sql import packing, schema, templates
from converge.sql.packing import PREFIX, pack, unpack
from converge.testing import FakeWorld, StepEngine

TEMPLATE = """
parameters:
  password: {type: string, hidden: true}
resources:
  A: {type: fake, properties: {size: {get_param: password}}}
"""
OTHER = TEMPLATE.replace("A:", "B:")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Already a short text is packed."""
    monkeypatch.setattr(packing, "LONGEST", 50)


def test_a_text_is_what_it_was() -> None:
    rnd = random.Random(1)
    for length in (0, 1, 50, 51, 1000):
        given = "".join(rnd.choices(string.printable, k=length))
        assert unpack(pack(given)) == given
        assert pack(given).startswith(PREFIX) == (length > 50)
    assert len(pack("ab" * 1000)) < 100


def test_what_is_packed_is_the_same_template_for_all(store: Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())
    given = {"password": "secret7"}
    store.create_stack("s", Template.parse(TEMPLATE), parameters=given)
    again = store.converge_stack("s", Template.parse(TEMPLATE), parameters=given)
    assert again.outcome == "resumed"
    engine.run()
    store.update_stack("s", Template.parse(OTHER), parameters=given)
    engine.run()
    with store.transaction() as tx:
        raw = tx.connection.execute(text(f"SELECT body FROM {schema.template.name}")).scalars()
        assert all(stored.startswith(PREFIX) for stored in raw)
        stack_id = store.stack("s").id
        assert [row.version for row in templates.list_with_hidden(tx, stack_id)] == [1, 2]
        first = templates.list_with_hidden(tx, stack_id)[0]
        body, parameters = templates.get_texts(tx, first.id)
        assert templates.list_alike(tx, [1, 2, first.id], body, parameters) == [first.id]
    shown = store.show("s")["resources"]["B"]
    assert "secret7" not in str(shown)
    store.rollback_stack("s")
    engine.run()
    assert world.names() == ["A.1"]
