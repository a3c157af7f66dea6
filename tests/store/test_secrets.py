"""Properties and attributes that a type declares secret, on each database: told nowhere."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

import converge
from converge.resources.resource_type import check_types
from converge.sql.resource_views import Wanted, list_current
from converge.sql.stacks import get_stack
from converge.template.json_schema import make_schema
from converge.testing import FakeClock, StepEngine

WORD, KEY = "s3cret-word-1", "s3cret-key-2"
TEMPLATE = f"""
resources:
  database:
    type: database
    properties: {{password: {WORD}, size: 1, access: {{everyone: true}}}}
  application:
    type: application
    properties:
      url: {{list_join: ["", ["db://app:", {{get_attr: [database, key]}}, "@host"]]}}
      plain: {{get_attr: [database, size]}}
  probe:
    type: application
    properties: {{url: {{get_attr: [application, echo]}}}}
outputs:
  key: {{value: {{get_attr: [database, key]}}}}
  url: {{value: {{get_attr: [probe, echo]}}}}
  size: {{value: {{get_attr: [database, size]}}}}
"""


class Database(converge.ResourceType):
    schema: ClassVar[dict[str, converge.Property]] = {
        "password": converge.Property(str, secret=True),
        "size": converge.Property(int),
        "access": converge.Property(dict, secret=True),
    }
    secret_attributes = ("key",)

    def create(self, context: converge.Context, properties: Any) -> converge.Physical:
        made = {"key": KEY, "size": 1, "login": f"app:{properties['password']}"}
        return converge.Physical("db", made)

    def update(self, *given: Any) -> None: ...

    def delete(self, *given: Any) -> None:
        raise LookupError(f"cannot: {given[0].properties} {given[0].attributes}")


class Application(converge.ResourceType):
    """Its attribute is its property."""

    fails: ClassVar[str | None] = None

    def create(self, context: converge.Context, properties: Any) -> converge.Physical:
        if context.name == self.fails:
            raise LookupError(f"cannot reach {properties['url']}")
        return converge.Physical("app", {"echo": properties["url"]})

    update = create

    def delete(self, *given: Any) -> None: ...


TYPES = {"database": Database(), "application": Application()}


def all_that_is_told(store: converge.Store) -> str:
    told: list[Any] = [store.show("s"), store.events("s"), store.why("s")]
    told += [store.why("s", name) for name in store.show("s")["resources"]]
    return json.dumps(told, default=str)


def test_what_a_type_declares_secret_is_shown_nowhere_also_where_it_went(
    store: converge.Store, clock: FakeClock
) -> None:
    store.create_stack("s", converge.Template.parse(TEMPLATE))
    StepEngine(store, TYPES, clock=clock).run()
    shown = store.show("s")
    properties = {"password": "***", "size": 1, "access": "***"}
    assert shown["resources"]["database"]["properties"] == properties
    assert shown["resources"]["database"]["attributes"] == {
        "key": "***",
        "size": 1,
        "login": "***",
    }
    assert shown["resources"]["application"]["properties"] == {"url": "***", "plain": 1}
    assert shown["resources"]["probe"]["attributes"] == {"echo": "***"}
    assert shown["outputs"] == {"key": "***", "url": "***", "size": 1}
    assert store.outputs("s") == shown["outputs"]
    told = all_that_is_told(store)
    assert WORD not in told
    assert KEY not in told
    # of a page, what comes from resources that are not on it
    (page,) = store.show("s", limit=1, after="database")["resources"].values()
    assert page["properties"] == {"url": "***"}
    revealed = store.show("s", reveal=True)
    assert revealed["resources"]["database"]["properties"]["password"] == WORD
    assert revealed["outputs"]["url"] == f"db://app:{KEY}@host"


@pytest.mark.parametrize("name", ["application", "probe"])
def test_a_failure_of_what_a_secret_went_to_does_not_tell_it(
    store: converge.Store,
    clock: FakeClock,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Application, "fails", name)
    monkeypatch.setattr(Application, "retry", converge.RetryPolicy(attempts=1))
    store.create_stack("s", converge.Template.parse(TEMPLATE))
    StepEngine(store, TYPES, clock=clock).run()
    (answer,) = store.why("s", name)
    assert answer["reason"].startswith("LookupError: cannot reach ***")
    assert KEY not in all_that_is_told(store) + caplog.text + answer["traceback"]


def test_a_failed_delete_tells_no_secret_of_its_row(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "retry", converge.RetryPolicy(attempts=1))
    engine = StepEngine(store, TYPES, clock=clock)
    store.create_stack("s", converge.Template.parse(TEMPLATE))
    engine.run()
    # what the update leaves as it was stays secret, though it contains another password
    store.update_stack("s", converge.Template.parse(TEMPLATE.replace(WORD, "another-word")))
    engine.run()
    assert store.show("s")["resources"]["database"]["attributes"]["login"] == "***"
    store.delete_stack("s")
    engine.run()
    (answer,) = store.why("s", "database")
    assert "'size': 1" in answer["reason"]
    told = all_that_is_told(store) + answer["traceback"]
    assert not [word for word in (WORD, KEY, "another-word") if word in told]


def test_a_wrong_value_of_a_secret_property_is_not_quoted(
    store: converge.Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = converge.Property(str, secret=True, constraints={"length": {"max": 3}})
    monkeypatch.setattr(Database, "schema", {**Database.schema, "password": length})
    template = converge.Template.parse(TEMPLATE)
    with pytest.raises(converge.TemplateError, match="it has a hidden value; its length must"):
        template.validate(TYPES)
    store.create_stack("s", template)
    StepEngine(store, TYPES, clock=clock).run()
    assert "it has a hidden value; its length must" in store.why("s", "database")[0]["reason"]


def test_a_secret_that_is_short_does_not_make_all_secret(
    store: converge.Store, clock: FakeClock
) -> None:
    store.create_stack("s", converge.Template.parse(TEMPLATE.replace(WORD, '"1"')))
    StepEngine(store, TYPES, clock=clock).run()
    assert store.show("s", reveal=True)["resources"]["database"]["attributes"]["size"] == 1
    assert "size" not in json.dumps(_marks(store))


def _marks(store: converge.Store) -> list[Any]:
    def read(tx: Any) -> list[Any]:
        return [one.settings for one in list_current(tx, Wanted(get_stack(tx, "s").id, True))]

    return store.database.read(read)


@pytest.mark.parametrize(
    ("names", "message"),
    [("key", "must be names, not the text 'key'"), (("k",), "'k', which is not in attribute_")],
)
def test_secret_attributes_that_are_none_are_refused(names: Any, message: str) -> None:
    class Wrong(Database):
        attribute_names = ("key", "size", "login")
        secret_attributes = names

    with pytest.raises(converge.BadInput, match=message):
        check_types({"wrong": Wrong()})


def test_an_editor_is_told_what_is_secret() -> None:
    assert '"writeOnly": true' in json.dumps(make_schema(TYPES))
