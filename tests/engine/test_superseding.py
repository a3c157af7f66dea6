"""What becomes of handlers that run when somebody wants something else."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.sql.schema import sync_point
from tests.handlers import Quick
from tests.waiting import WAIT, until


class Patient(Quick):
    """A handler that waits for an hour, unless it is told to stop."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.told: list[str | None] = []
        self.go = threading.Event()

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None:
        self.began.release()
        while not self.go.wait(0.01):
            if context.cancelled.is_set():
                self.told.append(context.cancel_reason)
                raise RuntimeError("told to stop")


PATIENT = "resources: {a: {type: patient}}"
T = converge.Template.parse


@pytest.fixture
def patient(store: converge.Store) -> Iterator[Patient]:
    patient = Patient()
    with converge.Engine(store, {"patient": patient, "quick": Quick()}, poll=0.05, lease=3.0):
        yield patient
        patient.go.set()


def start(store: converge.Store, patient: Patient, **more: Any) -> converge.Stack:
    stack = store.create_stack("s", T(PATIENT), **more)
    assert patient.began.acquire(timeout=WAIT)
    return stack


def test_a_delete_ends_what_a_create_is_doing(store: converge.Store, patient: Patient) -> None:
    start(store, patient)
    stack = store.delete_stack("s")
    assert stack.wait(WAIT) == "COMPLETE"
    assert patient.told == ["a newer traversal deletes or replaces the resource"]
    assert not stack.live


@pytest.mark.parametrize(
    "newer", ["resources: {}", "resources: {a: {type: quick}}"], ids=["without", "another type"]
)
def test_an_update_ends_what_it_does_not_want(
    store: converge.Store, patient: Patient, newer: str
) -> None:
    start(store, patient)
    assert store.update_stack("s", T(newer)).wait(WAIT) == "COMPLETE"
    assert len(patient.told) == 1


def test_an_update_waits_for_what_it_wants_too(store: converge.Store, patient: Patient) -> None:
    start(store, patient)
    stack = store.update_stack("s", T("resources: {a: {type: patient}, b: {type: quick}}"))
    until(lambda: store.show("s")["resources"]["b"]["status"] == "COMPLETE")
    # and this one's handlers were told, if they are to be
    with store.database.transaction(write=False) as tx:
        assert not list(tx.execute(select(sync_point).where(sync_point.c.cancelled)))
    patient.go.set()
    assert stack.wait(WAIT) == "COMPLETE"
    assert patient.told == []


def test_an_even_newer_one_ends_what_was_left_to_it(
    store: converge.Store, patient: Patient
) -> None:
    start(store, patient)
    store.update_stack("s", T("resources: {a: {type: patient}, b: {type: quick}}"))
    store.update_stack("s", T("resources: {b: {type: quick}}"))
    assert store.stack("s").wait(WAIT) == "COMPLETE"
    assert len(patient.told) == 1


def test_a_deadline_outlives_its_traversal(store: converge.Store, patient: Patient) -> None:
    start(store, patient, timeout=1.0)
    patient.go.clear()
    stack = store.update_stack("s", T("resources: {a: {type: patient}, b: {type: quick}}"))
    assert patient.began.acquire(timeout=WAIT)
    assert patient.told == ["the traversal timed out"]
    patient.go.set()
    assert stack.wait(WAIT) == "COMPLETE"


def test_a_cancel_reaches_what_a_superseded_traversal_left(
    store: converge.Store, patient: Patient
) -> None:
    start(store, patient)
    stack = store.update_stack("s", T("resources: {a: {type: patient}, b: {type: quick}}"))
    stack.cancel()
    until(lambda: patient.told == ["the newer traversal was cancelled"])
    assert stack.wait(WAIT) == "CANCELLED"
