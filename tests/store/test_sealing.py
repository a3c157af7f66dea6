"""What may be secret is encrypted in the database where there is a key, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from sqlalchemy import MetaData, create_engine, select

import converge
from converge import crash_points
from converge.crash_points import Commit
from converge.protocol.basis import make_basis
from converge.sealing import Keyring, new_key
from converge.sql.keys import reencrypt, use_keyring
from converge.testing import FakeClock, StepEngine

WORDS = [f"s3cret-word-{number}" for number in range(6)]
PARAMETER, PROPERTY, ATTRIBUTE, TRIGGER, STEP, OTHER = WORDS
TEMPLATE = f"""
parameters:
  word: {{type: string, hidden: true}}
resources:
  thing:
    type: thing
    properties: {{word: {{get_param: word}}, password: {PROPERTY}}}
    triggers: {TRIGGER}
  other: {{type: thing, properties: {{word: {{get_attr: [thing, key]}}}}}}
outputs:
  key: {{value: {{get_attr: [thing, key]}}}}
"""
#: How many values there are to encrypt of a stack that is made: the template and its parameters; of
#: each resource its properties and attributes, and of both their settings.
VALUES = 2 + 2 * 3


class Thing(converge.ResourceType):
    schema: ClassVar[dict[str, converge.Property]] = {
        "word": converge.Property(str),
        "password": converge.Property(str, secret=True),
    }
    secret_attributes = ("key",)
    retry = converge.RetryPolicy(attempts=2, first=1)
    fails: ClassVar[bool] = False

    def create(self, context: converge.Context, properties: Any) -> converge.Physical:
        context.step("make", lambda: STEP)
        list(context.each("items", [STEP, STEP], every=1))
        if self.fails:
            raise LookupError(f"{properties}")
        return converge.Physical(context.name, {"key": ATTRIBUTE})

    def update(self, context: converge.Context, *given: Any) -> None:
        context.step("change", lambda: STEP)

    def delete(self, *given: Any) -> None: ...


TYPES = {"thing": Thing()}
FIRST, SECOND = new_key(), new_key()


@pytest.fixture
def sealed(store: converge.Store) -> Iterator[converge.Store]:
    """A store with a key."""
    use_keyring(store.database, Keyring([FIRST]))
    yield store
    store.database.keyring = None


def all_rows(store: converge.Store) -> str:
    """All that is in the database."""
    engine = create_engine(store.database.url)
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        rows = [connection.execute(select(table)).all() for table in metadata.sorted_tables]
    engine.dispose()
    return str(rows)


def create(store: converge.Store) -> None:
    template = converge.Template.parse(TEMPLATE)
    store.create_stack("s", template, parameters={"word": PARAMETER})


def update(store: converge.Store, template: str = TEMPLATE) -> converge.Stack:
    parsed = converge.Template.parse(template)
    return store.update_stack("s", parsed, parameters={"word": PARAMETER})


def found_in(text: str) -> list[str]:
    return [word for word in WORDS if word in text]


def test_no_secret_is_in_the_database_at_any_time(
    sealed: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Thing, "fails", True)
    create(sealed)
    assert found_in(all_rows(sealed)) == []
    engine = StepEngine(sealed, TYPES, clock=clock)
    engine.run()
    # it has failed once, and its steps are kept for the next attempt
    assert sealed.why("s", "thing")[0]["state"] == "READY"
    assert "sealed:" in all_rows(sealed)
    assert found_in(all_rows(sealed)) == []
    monkeypatch.setattr(Thing, "fails", False)
    clock.advance(2)
    engine.run()
    shown = sealed.show("s", reveal=True)
    assert shown["status"] == "COMPLETE"
    assert shown["resources"]["thing"]["properties"] == {"word": PARAMETER, "password": PROPERTY}
    assert shown["outputs"] == {"key": ATTRIBUTE}
    assert sealed.show("s")["outputs"] == {"key": "***"}
    update(sealed, TEMPLATE.replace(PROPERTY, OTHER))
    engine.run()
    assert sealed.show("s")["status"] == "COMPLETE"
    assert found_in(all_rows(sealed)) == []


def test_without_a_key_they_are(store: converge.Store, clock: FakeClock) -> None:
    create(store)
    assert found_in(all_rows(store)) == [PARAMETER, PROPERTY, TRIGGER]


def test_what_is_encrypted_is_compared_by_what_it_says(
    sealed: converge.Store, clock: FakeClock
) -> None:
    engine = StepEngine(sealed, TYPES, clock=clock)
    create(sealed)
    engine.run()
    update(sealed)
    assert "2 unchanged" in sealed.events("s")[-1]["reason"]
    # nobody can find out what a resource was brought to by trying
    definition = '{"properties":{"word":{"get_attr":["thing","key"]}},"type":"thing"}'
    assert make_basis(definition, (1, 1), [])[:32] not in all_rows(sealed)


def test_a_digest_of_what_is_wanted_is_one_that_can_be_tried_where_there_is_no_key(
    store: converge.Store, clock: FakeClock
) -> None:
    create(store)
    StepEngine(store, TYPES, clock=clock).run()
    definition = '{"properties":{"word":{"get_attr":["thing","key"]}},"type":"thing"}'
    assert make_basis(definition, (1, 1), [])[:32] in all_rows(store)


def test_what_was_there_before_the_key_is_encrypted_when_that_is_asked_for(
    store: converge.Store, clock: FakeClock
) -> None:
    engine = StepEngine(store, TYPES, clock=clock)
    create(store)
    engine.run()
    try:
        use_keyring(store.database, Keyring([FIRST]))
        # what is not encrypted yet can be read
        assert store.show("s", reveal=True)["outputs"] == {"key": ATTRIBUTE}
        assert reencrypt(store.database) >= VALUES
        assert reencrypt(store.database) == 0
        assert found_in(all_rows(store)) == []
        # whose digests are others now: all is looked at, and nothing done
        update(store)
        engine.run()
        update(store)
        assert "2 unchanged" in store.events("s")[-1]["reason"]
    finally:
        store.database.keyring = None


def test_keys_are_changed_while_values_of_both_are_read(
    sealed: converge.Store, clock: FakeClock
) -> None:
    database = sealed.database
    engine = StepEngine(sealed, TYPES, clock=clock)
    create(sealed)
    use_keyring(database, Keyring([SECOND, FIRST]))
    # until it is asked for, the key of all others encrypts
    assert database.keyring is not None
    assert database.keyring.chosen == Keyring([FIRST]).fingerprints[0]
    engine.run()
    assert reencrypt(database) >= VALUES
    assert reencrypt(database) == 0
    with pytest.raises(converge.SecretKeyError, match="are encrypted with the key"):
        use_keyring(database, Keyring([FIRST]))
    use_keyring(database, Keyring([SECOND]))
    assert sealed.show("s", reveal=True)["outputs"] == {"key": ATTRIBUTE}
    # who began with the old one, and has both, reads what was written since
    update(sealed, TEMPLATE.replace(PROPERTY, OTHER))
    engine.run()
    database.keyring = Keyring([FIRST, SECOND])
    assert sealed.show("s", reveal=True)["resources"]["thing"]["properties"]["password"] == OTHER


def test_reencrypting_in_small_batches_leaves_nothing_out(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    import converge.sql.keys as keys

    monkeypatch.setattr(keys, "_TABLES", [one._replace(batch=1) for one in keys._TABLES])
    create(store)
    StepEngine(store, TYPES, clock=clock).run()
    update(store, TEMPLATE.replace(PROPERTY, OTHER))
    try:
        use_keyring(store.database, Keyring([FIRST]))
        assert reencrypt(store.database) >= VALUES
        assert found_in(all_rows(store)) == []
    finally:
        store.database.keyring = None


def test_reencrypting_that_dies_anywhere_leaves_all_readable_and_goes_on(
    sealed: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(point: str) -> None:
        reached.append(point)
        if len(reached) == at:
            raise KeyboardInterrupt

    create(sealed)
    StepEngine(sealed, TYPES, clock=clock).run()
    at, reached = 0, ["none"]
    ring, order = [FIRST, SECOND], 1
    while len(reached) >= at:
        at += 1
        reached = []
        # with the other key as the first one, so that there is always something to do
        order = -order
        use_keyring(sealed.database, Keyring(ring[::order]))
        monkeypatch.setattr(crash_points, "hook", die)
        try:
            reencrypt(sealed.database)
        except KeyboardInterrupt:
            monkeypatch.setattr(crash_points, "hook", None)
            use_keyring(sealed.database, Keyring(ring))
            assert sealed.show("s", reveal=True)["outputs"] == {"key": ATTRIBUTE}
            use_keyring(sealed.database, Keyring(ring[::order]))
            reencrypt(sealed.database)
        monkeypatch.setattr(crash_points, "hook", None)
        assert reencrypt(sealed.database) == 0
    # the choice, and a batch of each table
    assert set(reached) == {Commit.REENCRYPT.before, Commit.REENCRYPT.after}
    assert at > 2 * 5


def test_who_has_no_key_or_another_one_is_refused_and_writes_nothing(
    sealed: converge.Store, clock: FakeClock
) -> None:
    create(sealed)
    before = all_rows(sealed)
    own, other = (Keyring([key]).fingerprints[0] for key in (FIRST, SECOND))
    with pytest.raises(converge.SecretKeyError, match=f"with the key {own}, and this process has"):
        use_keyring(sealed.database, None)
    # an engine that was started before there was a key
    engine = StepEngine(sealed, TYPES, clock=clock)
    rows = all_rows(sealed)
    for keyring in (None, Keyring([SECOND])):
        sealed.database.keyring = keyring
        with pytest.raises(converge.SecretKeyError):
            engine.run()
    assert all_rows(sealed) == rows
    with pytest.raises(converge.SecretKeyError, match=f"{own}, and this process has {other};"):
        use_keyring(sealed.database, Keyring([SECOND]))
    assert before != rows
    # the key is back, and nothing was lost
    use_keyring(sealed.database, Keyring([FIRST]))
    engine.run()
    assert sealed.show("s")["status"] == "COMPLETE"


def test_who_only_reads_does_not_decide_that_values_are_encrypted(store: converge.Store) -> None:
    use_keyring(store.database, Keyring([FIRST]), note=False)
    use_keyring(store.database, None)
