"""What the tests of the type ``file`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converge.model import Physical
from converge.resources.file import File
from converge.resources.resource_type import Context

FILE = File()


def make_context(**known: Any) -> Context:
    tokens = {"resource_token": "token-1", "stack_token": "1-a"}
    return Context("shop", "page", **{"token": "token-1", **tokens, **known})


def create(
    path: Path | str, content: str = "x", by: str = "token-1", **properties: Any
) -> Physical:
    """:param by: the token of the resource."""
    context = make_context(resource_token=by)
    made = FILE.create(context, {"path": str(path), "content": content, **properties})
    assert isinstance(made, Physical)
    return made


def update(made: Physical, content: str, by: str = "token-1", **properties: Any) -> Physical:
    wanted = {"path": made.id, "content": content, **properties}
    known = make_context(physical_id=made.id, attributes=made.attributes, resource_token=by)
    return FILE.update(known, made.id, wanted, wanted)


def delete(made: Physical, properties: dict[str, Any] | None = None, by: str = "token-1") -> None:
    known = make_context(
        physical_id=made.id,
        attributes=made.attributes,
        properties=properties or {},
        resource_token=by,
    )
    FILE.delete(known, made.id)


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o7777
