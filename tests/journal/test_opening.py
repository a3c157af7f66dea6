"""The journal itself: where it is, and how it is opened and closed."""

from __future__ import annotations

from typing import Any

import pytest

from converge.errors import BadInput
from converge.journal import Journal
from converge.journal.memory import Memory, MemoryBackend
from tests.journal.places import Place
from tests.journal.world import World, steps


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://x", "has the URL memory://"),
        ("journal.db", "is not the URL of a journal"),
        ("sqlit:///x.db", "did you mean 'sqlite'"),
    ],
)
def test_a_wrong_url_is_named(url: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Journal(url)


@pytest.mark.parametrize("backend", [None, "sql"])
def test_a_journal_is_opened_by_the_url_of_its_database(
    database_url: str, world: World, backend: str | None
) -> None:
    name = f"job of {backend}"
    for _ in range(2):
        with Journal(database_url, backend=backend) as journal, journal.scope(name) as scope:
            assert steps(world, "a")(scope) == ["A"]
    assert world.calls == ["a"]


def test_a_journal_is_opened_by_a_name_alone(world: World) -> None:
    with Journal("memory") as journal, journal.scope("job") as scope:
        assert steps(world, "a")(scope) == ["A"]
        assert isinstance(journal.backend, MemoryBackend)


def test_a_backend_is_found_by_its_name_whatever_the_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[str, float]] = []

    def open_etcd(url: str, lease: float) -> MemoryBackend:
        opened.append((url, lease))
        return MemoryBackend(Memory(), lease)

    monkeypatch.setattr("converge.journal._backends", lambda: {"etcd": open_etcd})
    Journal("https://host:2379", backend="etcd", lease=5.0).close()
    assert opened == [("https://host:2379", 5.0)]
    with pytest.raises(BadInput, match=r"there is no backend 'etc'; did you mean 'etcd'\?"):
        Journal("https://host:2379", backend="etc")
    with pytest.raises(BadInput, match=r"'https://\*\*\*' is not the URL of a journal"):
        Journal("https://host:2379")


def test_a_closed_journal_leaves_its_scopes_to_others_at_once(place: Place) -> None:
    backend = place.backend()
    block = Journal(backend).scope("job")
    block.__enter__()
    backend.close()
    with place.journal().scope("job"):
        pass


@pytest.mark.parametrize(
    "limits", [{}, {"age": -1}, {"keep": -1}, {"age": float("inf")}, {"age": float("nan")}]
)
def test_prune_wants_to_know_what(place: Place, limits: Any) -> None:
    with pytest.raises(BadInput, match=r"prune needs|must be a (whole )?number"):
        place.journal().prune(**limits)
