"""Who holds scopes: a process, under an id of its own."""

from __future__ import annotations

import os
import signal
import traceback

import pytest

from converge.errors import Busy
from converge.journal import Record
from tests.journal.places import Place


def test_a_forked_process_holds_what_it_takes_under_an_id_of_its_own(shared: Place) -> None:
    """It inherits the journal, but not the thread that renews the lease: were the id the
    parent's, nobody would ever see that the child is gone."""
    backend = shared.backend()
    mine = backend.take("the parent's").hold
    child = os.fork()
    if child == 0:
        try:
            hold = backend.take("the child's").hold
            assert hold.owner != mine.owner
            with pytest.raises(Busy):
                backend.take("the parent's")
            os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert backend.take("the child's").hold.epoch == 2
    backend.write(mine, Record("a", 1))
    assert backend.owner.current_id() == mine.owner
