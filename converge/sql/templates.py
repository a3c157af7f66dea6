"""Immutable template versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json import JSONDecoder
from typing import Any

from sqlalchemy import Row, Text, delete, insert, literal, select, true, type_coerce, update

from converge.errors import NotFound
from converge.model import Json
from converge.sealing import PREFIX as SEALED
from converge.sql.batch import among
from converge.sql.packing import PREFIX, PackedText
from converge.sql.schema import template
from converge.sql.transaction import Transaction
from converge.sql.types import SealedText

#: How many completed versions are kept for a rollback.
KEPT_VERSIONS = 10

_DECODER = JSONDecoder()
_BODY = type_coerce(template.c.body, PackedText())
_PARAMETERS = type_coerce(template.c.parameters, SealedText())


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """One version: a template's body and the parameters it was given."""

    id: int
    version: int
    body: Json
    parameters: Json


def insert_template(
    tx: Transaction,
    stack_id: int,
    version: int,
    body: str,
    parameters: str,
    directory: str | None = None,
) -> int:
    """Insert a version, given as canonical JSON, and return its id.

    :param directory: where its relative paths start.
    """
    values = {
        "stack_id": stack_id,
        "version": version,
        "body": literal(body, PackedText()),
        "parameters": literal(parameters, SealedText()),
        "created_at": tx.now,
        "directory": directory,
    }
    done = tx.execute(insert(template).values(values))
    key = done.inserted_primary_key
    assert key is not None
    return int(key[0])


def get_template(tx: Transaction, template_id: int, *, newest: bool = False) -> TemplateRow:
    """One version by its id.

    :param newest: look also for a row that is newer than a host's snapshot.
    :raises NotFound: it is gone.
    """
    columns = (template.c.id, template.c.version, template.c.body, template.c.parameters)
    query = select(*columns).where(template.c.id == template_id)
    row: Any = tx.execute(query).one_or_none()
    if row is None and newest:
        row = tx.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"there is no template with id {template_id}")
    return TemplateRow(*row)


def get_outline(tx: Transaction, template_id: int) -> TemplateRow:
    """One version by its id, with what its body has besides its resources: these are nearly all of
    it, and are not parsed.

    :raises NotFound: it is gone.
    """
    columns = (template.c.id, template.c.version, _BODY, template.c.parameters)
    row: Any = tx.execute(select(*columns).where(template.c.id == template_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no template with id {template_id}")
    id_, version, text, parameters = row
    return TemplateRow(id_, version, _outline(text), parameters)


def _outline(text: str) -> dict[str, Json]:
    """What a JSON object has before its key ``resources``. The keys are sorted."""
    found: dict[str, Json] = {}
    at = 0
    # a quote begins a key: what is between a value and the next one has none
    while (start := text.find('"', at)) >= 0:
        key, at = _DECODER.raw_decode(text, start)
        if key >= "resources":
            break
        found[key], at = _DECODER.raw_decode(text, at + 1)
    return found


def get_texts(tx: Transaction, template_id: int) -> tuple[str, str]:
    """The body and the parameters of a version, as canonical JSON.

    :raises NotFound: it is gone.
    """
    query = select(_BODY, _PARAMETERS).where(template.c.id == template_id)
    row: Any = tx.execute(query).one_or_none()
    if row is None:
        # it may be newer than a host's snapshot
        row = tx.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"there is no template with id {template_id}")
    return row[0], row[1]


def get_parameters(tx: Transaction, template_id: int) -> dict[str, Json]:
    """The parameters of a version, with what it reads of other stacks; none if it is gone."""
    query = select(template.c.parameters).where(template.c.id == template_id)
    found: dict[str, Json] | None = tx.execute(query).scalar_one_or_none()
    return found or {}


def get_directory(tx: Transaction, template_id: int) -> str | None:
    """Where the relative paths of a version start, None if it is from no file."""
    query = select(template.c.directory).where(template.c.id == template_id)
    return tx.execute(query).scalar_one_or_none()


def list_alike(tx: Transaction, ids: Iterable[int], body: str, parameters: str) -> list[int]:
    """Those of these versions that have this content, given as canonical JSON."""
    query = select(template.c.id, _BODY, _PARAMETERS).where(among(tx, template.c.id, ids))
    rows: Any = tx.execute(query.order_by(template.c.id))
    return [id_ for id_, *texts in rows if texts == [body, parameters]]


def list_with_hidden(tx: Transaction, stack_id: int) -> list[TemplateRow]:
    """The versions of a stack that may have hidden parameters, or hidden parts in what they read
    of other stacks. No others are read."""
    columns = (template.c.id, template.c.version, template.c.body, template.c.parameters)
    body, parameters = (type_coerce(column, Text) for column in columns[2:])
    query = select(*columns).where(
        template.c.stack_id == stack_id,
        parameters != "{}",
        body.like('%"hidden":%')
        | body.like('%"get_output":%')
        | body.like(f"{PREFIX}%")
        | body.like(f"{SEALED}%"),
    )
    rows: Any = tx.execute(query.order_by(template.c.id))
    return [TemplateRow(*row) for row in rows]


def find_version(tx: Transaction, stack_id: int, version: int) -> int:
    """The id of a version.

    :raises NotFound: it never existed, or is gone; the message names the kept versions.
    """
    mine = select(template.c.id, template.c.version).where(template.c.stack_id == stack_id)
    rows: dict[int, int] = {
        row.version: row.id for row in tx.execute(mine.order_by(template.c.version))
    }
    if version not in rows:
        known = ", ".join(str(number) for number in rows) or "none"
        raise NotFound(f"there is no version {version} of this stack; kept versions: {known}")
    return rows[version]


def find_last_completed(tx: Transaction, stack_id: int, before: int) -> int | None:
    """The id of the version that completed last, among lower numbers; None if there is none."""
    query = select(template.c.id).where(
        template.c.stack_id == stack_id,
        template.c.completed_at.is_not(None),
        template.c.version < before,
    )
    newest = query.order_by(template.c.completed_at.desc(), template.c.id.desc()).limit(1)
    return tx.execute(newest).scalar_one_or_none()


def list_versions(tx: Transaction, stack_id: int) -> list[int]:
    """The numbers of the versions of a stack that are kept."""
    query = select(template.c.version).where(template.c.stack_id == stack_id)
    return list(tx.execute(query.order_by(template.c.version)).scalars())


def set_completed(tx: Transaction, template_id: int) -> None:
    """Note that a traversal to this version completed now."""
    tx.execute(update(template).where(template.c.id == template_id).values(completed_at=tx.now))


def get_version_number(tx: Transaction, template_id: int | None) -> int | None:
    """The version number of a template."""
    if template_id is None:
        return None
    query = select(template.c.version).where(template.c.id == template_id)
    return tx.execute(query).scalar_one_or_none()


def list_unused(
    tx: Transaction, stack_id: int, used: Iterable[int | None], keep: int, age: float | None = None
) -> list[int]:
    """The versions of a stack that nobody needs. A resource can be from one of them: it says by
    itself what it was last brought to.

    :param used: ids that stay.
    :param keep: how many of the versions that completed last also stay.
    :param age: seconds for which they are there at least.
    """
    is_old = true() if age is None else template.c.created_at <= tx.now - age
    query = select(template.c.id, template.c.completed_at, is_old.label("is_old"))
    rows: list[Row[Any]] = list(tx.execute(query.where(template.c.stack_id == stack_id)).all())
    completed = sorted(
        (row for row in rows if row.completed_at is not None), key=lambda row: -row.completed_at
    )
    stay = {row.id for row in completed[:keep]} | set(used)
    return [row.id for row in rows if row.is_old and row.id not in stay]


def delete_versions(tx: Transaction, ids: Sequence[int]) -> None:
    """Delete versions."""
    if ids:
        tx.execute(delete(template).where(among(tx, template.c.id, ids)))
