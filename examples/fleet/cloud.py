"""A make-believe cloud, and an engine for it: ``python cloud.py --pool compute ...``.

Each thing is a file, and each call of a handler is a line in the file of the process that made it.
So what was really done can be counted without a look into the database.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import converge

#: Which types the engines of a pool have.
POOLS = {"storage": ("disk",), "compute": ("server", "network")}


class Thing(converge.ResourceType):
    """Something of the cloud.

    :param folder: the cloud.
    :param seconds: how long each call takes.
    """

    schema: ClassVar = {"size": converge.Property(int, required=True)}

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        # the same token when the call is made again after a death: there is never a second thing
        self._call(context, "create")
        self._write(context.token, properties)
        return context.token

    def find(self, context: converge.Context) -> converge.Physical | None:
        return converge.Physical(context.token) if self._path(context.token).exists() else None

    def update(
        self,
        context: converge.Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> None:
        self._call(context, "update")
        self._write(physical_id, properties)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        self._call(context, "delete")
        self._path(physical_id).unlink(missing_ok=True)

    def _path(self, physical_id: str) -> Path:
        return self._folder / "things" / f"{physical_id}.json"

    def _write(self, physical_id: str, properties: Mapping[str, Any]) -> None:
        path = self._path(physical_id)
        whole = path.with_suffix(f".{threading.get_ident()}")
        whole.write_text(json.dumps(dict(properties)), encoding="utf-8")
        whole.replace(path)

    def _call(self, context: converge.Context, what: str) -> None:
        if context.cancelled.wait(self._seconds):
            raise RuntimeError(context.cancel_reason)
        with (self._folder / "calls" / f"{os.getpid()}").open("a", encoding="utf-8") as calls:
            calls.write(f"{what} {context.stack}/{context.name}\n")


def types(folder: Path, seconds: float) -> dict[str, converge.ResourceType]:
    """The cloud's types by name."""
    return {name: Thing(folder, seconds) for names in POOLS.values() for name in names}


def main() -> None:
    """Run an engine until SIGTERM."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--db", required=True)
    options.add_argument("--bus")
    options.add_argument("--pool", choices=POOLS, required=True)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--seconds", type=float, required=True)
    given = options.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C is for the program that has started this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known = types(given.folder, given.seconds)
    pool = {name: known[name] for name in POOLS[given.pool]}
    with (
        converge.connect(given.db, bus=given.bus) as store,
        converge.Engine(store, pool, workers=8, lease=3),
    ):
        stop.wait()


if __name__ == "__main__":
    main()
