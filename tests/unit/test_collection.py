"""Garbage collection is put off, and goes on as the host had it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import converge
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


@pytest.mark.parametrize(
    ("own", "looks"),
    [("main()", 0), ('main(["--version"])', 1)],
    ids=["a command", "a call in a program that goes on"],
)
def test_only_a_command_that_ends_with_its_process_collects_seldom(own: str, looks: int) -> None:
    program = f"""
import gc, sys
from converge.cli import main
sys.argv[1:] = ["--version"]
{own}
# what was there before is not looked through again at the end
print(int(gc.get_freeze_count() == 0), int(gc.get_threshold()[0] < 50_000))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(converge.__file__).parents[1])},
    )
    assert ran.stdout.splitlines()[-1] == f"{looks} {looks}"
