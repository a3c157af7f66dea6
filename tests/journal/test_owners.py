"""Who holds scopes: a process, under an id of its own."""

from __future__ import annotations

import gc
import os
import signal
import traceback
from typing import Any

import pytest

from converge.errors import BadInput, Busy, StoreError
from converge.journal import Journal, Record
from converge.journal.sql import SqlBackend
from converge.lease import check_lease, expire, list_gone
from converge.sql import engines
from tests.journal.places import LEASE, InDatabase, Place


def test_a_forked_process_holds_what_it_takes_under_an_id_of_its_own(shared: Place) -> None:
    """It inherits the journal, but not the thread that renews the lease: were the id the
    parent's, nobody would ever see that the child is gone."""
    backend = shared.backend()
    mine = backend.take("the parent's").lock
    child = os.fork()
    if child == 0:
        try:
            lock = backend.take("the child's").lock
            assert lock.owner != mine.owner
            with pytest.raises(Busy):
                backend.take("the parent's")
            os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert backend.take("the child's").lock.epoch == 2
    backend.write(mine, Record("a", 1))
    assert backend.owner.current_id() == mine.owner


def test_rows_of_owners_that_ended_long_ago_are_deleted(sql: InDatabase) -> None:
    """Where no engine runs, nobody else does it."""
    dead, left = sql.backend(), sql.backend()
    dead.take("job")
    sql.kill(dead)
    left.take("another")
    left.close()
    sql.pass_time(engines.KEPT)
    young = sql.backend()
    young.take("one more")
    assert len(rows(sql)) == 3
    sql.pass_time(LEASE + 1)
    last = sql.backend().take("job").lock
    assert [row.id for row in rows(sql)] == [young.owner.current_id(), last.owner]


def test_leases_that_are_over_at_once_are_an_error_and_no_loop(sql: InDatabase) -> None:
    backend = SqlBackend(sql.store.database, 1.0)
    taken = []

    def late(owner: int) -> None:
        taken.append(owner)
        sql.pass_time(1.0)
        sql.store.database.read(lambda tx: check_lease(tx, owner))

    with pytest.raises(StoreError, match="leases of 1 s expire before they can be used"):
        backend.owner.attempt(late)
    assert len(set(taken)) == len(taken) == 5
    backend.close()


@pytest.mark.parametrize("lease", [0, -1, 0.5, float("inf"), "15", None])
def test_a_lease_lasts_a_second_at_least(lease: Any) -> None:
    with pytest.raises(BadInput, match="lease must be a positive number of at least 1 of seconds"):
        Journal("memory", lease=lease)


def test_an_owner_that_nobody_has_any_more_is_no_sign_of_life(sql: InDatabase) -> None:
    backend = SqlBackend(sql.store.database, LEASE)
    backend.owner.lost(backend.take("job").lock.owner)
    threads = backend.owner._threads
    assert [thread.is_alive() for thread in threads] == [True, True]
    del backend
    gc.collect()
    for thread in threads:
        thread.join(60)
    assert [thread.is_alive() for thread in threads] == [False, False]


def rows(sql: InDatabase) -> list[engines.EngineRow]:
    states = (engines.ALIVE, engines.STOPPED, engines.DEAD)
    return sql.store.database.read(lambda tx: engines.list_engines(tx, states))


def test_the_lease_of_a_process_that_is_gone_is_ended_once(
    sql: InDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = sql.backend()
    backend.take("job")
    monkeypatch.setattr("converge.lease.lease.is_gone", lambda process: True)
    database = sql.store.database
    gone = database.read(list_gone)
    assert gone == [backend.owner.current_id()]
    expire(database, gone)
    assert database.read(list_gone) == []
