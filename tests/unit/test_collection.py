"""Garbage collection is put off, and goes on as the host had it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from converge import Template, collection


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_paused_and_then_as_it_was(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with collection.paused():
        with collection.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == enabled


def test_it_goes_on_after_an_error() -> None:
    gc.enable()
    with pytest.raises(ZeroDivisionError), collection.paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_nobody_looks_for_garbage_while_a_template_is_made() -> None:
    body = {"resources": {f"r{number}": {"type": "fake"} for number in range(2_000)}}
    gc.enable()
    looks: list[str] = []

    def look(phase: str, details: object) -> None:
        looks.append(phase)

    gc.callbacks.append(look)
    try:
        Template.from_dict(body)
    finally:
        gc.callbacks.remove(look)
    # at most the one when it goes on: its beginning and its end
    assert len(looks) <= 2
