"""What the tests of engines share: a store on the database's own clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import converge


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    return fresh_store()
