"""Fixtures of the tests without a database."""

from __future__ import annotations

import errno
import os

import pytest


@pytest.fixture(params=["marks", "no marks", "no marks, no links"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with all that is needed, or without extended attributes, or hard links too."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    missing = {"marks": [], "no marks": ["getxattr", "setxattr"]}
    for name in missing.get(request.param, ["getxattr", "setxattr", "link"]):
        monkeypatch.setattr(os, name, refuse)
    return str(request.param)
