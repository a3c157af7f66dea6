"""What the tests of services share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import converge
from tests.acceptance.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.end()


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    return fresh_store()
