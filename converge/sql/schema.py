"""The tables. ``alembic/versions`` makes them; a test keeps the two equal.

Times are seconds since 1970 UTC as double precision: one arithmetic on three databases.

How a database keeps a table (its engine, how it compares texts, which rows an index leaves out) is
in the migrations: SQLAlchemy imports each dialect of which a table here names an option.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    false,
)

from converge.sql.packing import PackedJson
from converge.sql.types import (
    ID,
    LANE_TYPES_LENGTH,
    NAME,
    PHYSICAL_ID_LENGTH,
    REASON_LENGTH,
    SOURCE_LENGTH,
    Blind,
    JsonText,
    LongBinary,
    LongText,
    SealedJson,
    SealedText,
)
from converge.tracing import LENGTH as TRACE_LENGTH

PREFIX = "converge_"
VERSION_TABLE = "converge_alembic_version"
#: Made by the first upgrade, before any migration: see upgrade_lock.
LOCK_TABLE = "converge_upgrade_lock"

#: What the index of sync points covers; queries say their states as literals to match it.
LIVE_STATES = "state IN ('READY', 'RUNNING', 'BLOCKED', 'SUPERSEDED')"

#: In the ``info`` of an index: the condition of the rows that it covers.
PARTIAL = "partial"

metadata = MetaData()


def _mark() -> Column[int]:
    """A random number of who wrote the row, beside its id: after the database was brought back
    from an older copy, ids come again."""
    return Column("mark", ID, nullable=False, server_default="0")


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index of some of the rows, where the database can leave the others out."""
    return Index(name, *columns, info={PARTIAL: where})


def _held(name: str, column: str) -> Index:
    """An index of the few rows that have something in a column."""
    return _partial(name, column, where=f"{column} IS NOT NULL")


stack = Table(
    PREFIX + "stack",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False),
    # 1 while it lives, NULL afterwards: unique keys ignore NULL on every database
    Column("live", Integer),
    Column("action", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(REASON_LENGTH)),
    Column("versions", Integer, nullable=False),
    Column("template_id", ID),
    Column("completed_template_id", ID),
    # wanted before the wanted one
    Column("previous_template_id", ID),
    Column("traversal_id", ID),
    Column("edges", LongBinary),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    _mark(),
    # the file of its template
    Column("source", String(SOURCE_LENGTH)),
    # of the engines that work on it; NULL: the default one
    Column("queue", NAME),
    Column("priority", Integer, nullable=False, server_default="0"),
    # of what its rows say; see converge.formats
    Column("format", Integer, nullable=False, server_default="1"),
    # the resource of another stack that it belongs to; NULL: it is one of its own
    Column("outer_resource_id", ID),
    UniqueConstraint("name", "live", name="uniq_converge_stack0name0live"),
    _held("ix_converge_stack_outer_resource_id", "outer_resource_id"),
)

# what a stack reads of others, since the start of its last traversal
output_read = Table(
    PREFIX + "output_read",
    metadata,
    Column("stack_id", ID, nullable=False),
    # the stack that is read
    Column("source_id", ID, nullable=False),
    Column("output", NAME, nullable=False),
    PrimaryKeyConstraint("stack_id", "source_id", "output", name="pk_converge_output_read"),
    Index("ix_converge_output_read_source_id", "source_id"),
)

template = Table(
    PREFIX + "template",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("stack_id", ID, nullable=False),
    Column("version", Integer, nullable=False),
    Column("body", PackedJson, nullable=False),
    Column("parameters", SealedJson, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("completed_at", Double),
    # where its relative paths start; NULL if it is from no file
    Column("directory", String(SOURCE_LENGTH)),
    UniqueConstraint("stack_id", "version", name="uniq_converge_template0stack_id0version"),
)

traversal = Table(
    PREFIX + "traversal",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("stack_id", ID, nullable=False),
    Column("action", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    # set when nothing new may start: what the traversal will end as
    Column("halted", String(16)),
    Column("reason", String(REASON_LENGTH)),
    Column("from_template_id", ID),
    Column("template_id", ID),
    Column("from_version", Integer),
    Column("version", Integer),
    Column("on_failure", String(16), nullable=False),
    Column("node_timeout", Double),
    Column("deadline_at", Double),
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    _mark(),
    # the span it was started in, for spans of its nodes
    Column("trace", String(TRACE_LENGTH)),
    # what was asked for by name since the stack was COMPLETE: see converge.protocol.asked
    Column("asked", JsonText),
    # who asked for it
    Column("actor", NAME),
    # halted by a failure, and nodes that run all the same are still to come to their end
    Column("goes_on", Boolean, nullable=False, server_default=false()),
    Index("ix_converge_traversal_stack_id", "stack_id"),
    Index("ix_converge_traversal_status", "status", "deadline_at"),
)

# one row per engine, so that engines don't queue for one counter
progress = Table(
    PREFIX + "progress",
    metadata,
    Column("traversal_id", ID, nullable=False),
    Column("engine_id", ID, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("skipped", Integer, nullable=False),
    PrimaryKeyConstraint("traversal_id", "engine_id", name="pk_converge_progress"),
)

resource = Table(
    PREFIX + "resource",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("stack_id", ID, nullable=False),
    Column("name", NAME, nullable=False),
    Column("type", NAME, nullable=False),
    # the root of its idempotency tokens
    Column("token", String(36), nullable=False),
    Column("action", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(REASON_LENGTH)),
    Column("template_id", ID),
    Column("physical_id", String(PHYSICAL_ID_LENGTH)),
    Column("properties", SealedJson, nullable=False),
    Column("attributes", SealedJson, nullable=False),
    Column("requires", JsonText, nullable=False),
    Column("replaces", ID),
    Column("replaced_by", ID),
    Column("engine_id", ID),
    Column("epoch", Integer, nullable=False),
    # a node waits for the lock: its release must wake it
    Column("blocking", Boolean, nullable=False, server_default=false()),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    # of the claim that took the lock
    _mark(),
    # of the exception that its reason is about
    Column("traceback", LongText),
    # what the template says of it besides its properties, as last reached; NULL if nothing
    Column("settings", SealedJson),
    # what it was last brought to; see converge.protocol.basis
    Column("basis", Blind(64)),
    # the node whose handler waits for a signal, or once did
    Column("waiting_traversal", ID),
    Column("waiting_node", Integer),
    # the names that it had before, oldest first; NULL if none
    Column("former", JsonText),
    # what a check found of it that is not as it was made, until it is mended; see
    # converge.protocol.drift
    Column("drift", SealedJson),
    Index("ix_converge_resource_stack_id", "stack_id", "name"),
)

sync_point = Table(
    PREFIX + "sync_point",
    metadata,
    Column("traversal_id", ID, nullable=False),
    Column("node", Integer, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("resource_id", ID),
    Column("keep", Boolean, nullable=False),
    Column("state", String(12), nullable=False),
    Column("pending", Integer, nullable=False),
    # a predecessor failed or was skipped, or the traversal was halted
    Column("tainted", Boolean, nullable=False),
    # since when; of a retry, from when on
    Column("ready_at", Double),
    Column("claimed_at", Double),
    Column("attempts", Integer, nullable=False),
    # of a retry: after how many attempts it is given up
    Column("max_attempts", Integer),
    # how many engines died while working on it
    Column("deaths", Integer, nullable=False),
    Column("engine_id", ID),
    Column("epoch", Integer, nullable=False),
    Column("definition", SealedJson),
    Column("requires", JsonText, nullable=False),
    Column("successors", JsonText, nullable=False),
    # of its traversal; from its first claim on, of the claim
    _mark(),
    # before which a retry may not be claimed; 0: it is none. A clock that goes back must not keep
    # what is ready from being claimed
    Column("due_at", Double, nullable=False, server_default="0"),
    # SUPERSEDED, and its handler is to stop
    Column("cancelled", Boolean, nullable=False, server_default=false()),
    # of an attempt whose handler waits: when its first call began; NULL before its first wait
    Column("waiting_since", Double),
    # the event that says how far it is, which the next one replaces
    Column("note_id", ID),
    # which engines can take it, and before what; 0: see converge.sql.lanes
    Column("lane", Integer, nullable=False, server_default="0"),
    # it runs although it is tainted
    Column("always", Boolean, nullable=False, server_default=false()),
    # of one for which nothing is to be done unless something before it changes: how many of its
    # predecessors have not arrived without a change. NULL: it is done whatever they are. An engine
    # that does not know of it leaves it as it is, so that the node is done
    Column("unsettled", Integer),
    PrimaryKeyConstraint("traversal_id", "node", name="pk_converge_sync_point"),
    # the order of claims, so that a claim reads no more than it takes; the many nodes that
    # wait or are over are not in it where the database can leave them out
    _partial(
        "ix_converge_sync_point_lane",
        "state",
        "due_at",
        "lane",
        "traversal_id",
        "ready_at",
        "node",
        where=LIVE_STATES,
    ),
)

# nodes that the same engines can take, at one priority; that of id 0 has no row
lane = Table(
    PREFIX + "lane",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("queue", NAME, nullable=False),
    # resource types that an engine must have besides those of every engine, joined by line breaks
    Column("types", String(LANE_TYPES_LENGTH), nullable=False),
    Column("priority", Integer, nullable=False),
    UniqueConstraint("queue", "types", "priority", name="uniq_converge_lane0queue0types0priority"),
)

# what may run or start at once, across all engines
limit = Table(
    PREFIX + "limit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    # what it is of: nodes of a resource type, of a stack, or of a key of the author's
    Column("kind", String(8), nullable=False),
    Column("name", NAME, nullable=False),
    # how many at once, and how many starts in how many seconds; NULL: any number
    Column("places", Integer),
    Column("rate_count", Integer),
    Column("rate_seconds", Double),
    # the last starts, and before which time there is none; see converge.protocol.places
    Column("starts", JsonText),
    Column("open_at", Double, nullable=False, server_default="0"),
    # grows at each claim that asks for its places
    Column("version", Integer, nullable=False, server_default="0"),
    # grows with each change of any limit
    Column("changed", Integer, nullable=False),
    UniqueConstraint("kind", "name", name="uniq_converge_limit0kind0name"),
    UniqueConstraint("changed", name="uniq_converge_limit0changed"),
)

# a place that a node holds, from its claim until its work is recorded or recovered
place = Table(
    PREFIX + "place",
    metadata,
    Column("traversal_id", ID, nullable=False),
    Column("node", Integer, nullable=False),
    Column("limit_id", Integer, nullable=False),
    PrimaryKeyConstraint("traversal_id", "node", "limit_id", name="pk_converge_place"),
    Index("ix_converge_place_limit_id", "limit_id"),
)

engine = Table(
    PREFIX + "engine",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("host", NAME, nullable=False),
    Column("pid", Integer, nullable=False),
    # host, boot, process and its start: whether it still runs can be seen on the same host
    Column("process", NAME, nullable=False),
    Column("role", String(16), nullable=False, server_default="engine"),
    Column("state", String(16), nullable=False),
    Column("lease", Double, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    _mark(),
    # the names of the resource types that it has, and of the queues that it serves; NULL: not known
    Column("types", JsonText),
    Column("queues", JsonText),
    # the highest that it understands
    Column("format", Integer, nullable=False, server_default="1"),
    Index("ix_converge_engine_state", "state", "expires_at"),
)

# a piece of work whose steps are recorded; who holds it, as of resources
scope = Table(
    PREFIX + "scope",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False),
    Column("engine_id", ID),
    Column("epoch", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("finished_at", Double),
    # of the process that took it last
    _mark(),
    # that its work is about; NULL if it is a host's, or an action's
    Column("resource_id", ID),
    UniqueConstraint("name", name="uniq_converge_scope0name"),
    Index("ix_converge_scope_finished_at", "finished_at"),
    _held("ix_converge_scope_engine_id", "engine_id"),
    _held("ix_converge_scope_resource_id", "resource_id"),
)

step = Table(
    PREFIX + "step",
    metadata,
    Column("scope_id", ID, nullable=False),
    Column("name", NAME, nullable=False),
    Column("number", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", String(8), nullable=False),
    Column("value", SealedText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Double),
    # of an each: how many items are done
    Column("position", Integer, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("scope_id", "name", name="pk_converge_step"),
)

instance = Table(
    PREFIX + "instance",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("machine", NAME, nullable=False),
    Column("key", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", NAME, nullable=False),
    Column("epoch", Integer, nullable=False),
    # the last payload of each event
    Column("payloads", LongText, nullable=False),
    Column("deadline_at", Double),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("machine", "key", name="uniq_converge_instance0machine0key"),
    _partial(
        "ix_converge_instance_deadline_at",
        "machine",
        "deadline_at",
        where="deadline_at IS NOT NULL",
    ),
)

move = Table(
    PREFIX + "move",
    metadata,
    Column("instance_id", ID, nullable=False),
    Column("number", Integer, nullable=False),
    Column("machine", NAME, nullable=False),
    # of the definition that it was made by
    Column("version", Integer, nullable=False),
    Column("event", NAME, nullable=False),
    Column("source", NAME, nullable=False),
    Column("target", NAME, nullable=False),
    Column("payload", LongText, nullable=False),
    # as they were at the move, for its action; empty if there is none
    Column("payloads", LongText, nullable=False),
    # of the transaction that made it
    Column("token", String(32), nullable=False),
    Column("at", Double, nullable=False),
    Column("status", String(8), nullable=False),
    Column("attempts", Integer, nullable=False),
    # when its action may be tried; long ago if it is no retry, far off if it FAILED, NULL if it is
    # DONE or there is none
    Column("next_at", Double),
    # the process that works on its action, how often it was taken, and how many died with it
    Column("engine_id", ID),
    Column("epoch", Integer, nullable=False),
    Column("deaths", Integer, nullable=False, server_default="0"),
    Column("reason", String(REASON_LENGTH)),
    # of the process that took its action last
    _mark(),
    PrimaryKeyConstraint("instance_id", "number", name="pk_converge_move"),
    _held("ix_converge_move_engine_id", "engine_id"),
    _partial(
        "ix_converge_move_next_at",
        "machine",
        "next_at",
        where="next_at IS NOT NULL",
    ),
)

# the key that values are encrypted with: no row, or one
sealing = Table(
    PREFIX + "sealing",
    metadata,
    # 1
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", String(16), nullable=False),
    Column("chosen_at", Double, nullable=False),
)

# who shares partitions
group = Table(
    PREFIX + "group",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("name", NAME, nullable=False),
    # that its members send to; it grows when their number changes
    Column("generation", Integer, nullable=False),
    Column("partitions", Integer, nullable=False),
    # what is hashed
    Column("key", NAME, nullable=False),
    # that its secret is known
    Column("proof", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("name", name="uniq_converge_group0name"),
)

member = Table(
    PREFIX + "member",
    metadata,
    Column("group_id", ID, nullable=False),
    Column("engine_id", ID, nullable=False),
    Column("proof", String(64), nullable=False),
    # of the partitions that it sends to
    Column("generation", Integer, nullable=False),
    Column("joined_at", Double, nullable=False),
    # of its lease
    _mark(),
    PrimaryKeyConstraint("group_id", "engine_id", name="pk_converge_member"),
)

# who holds it, as of resources
partition = Table(
    PREFIX + "partition",
    metadata,
    Column("group_id", ID, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("engine_id", ID),
    Column("epoch", Integer, nullable=False),
    Column("taken_at", Double),
    # when work of it was recorded last
    Column("worked_at", Double),
    # of who took it last
    _mark(),
    PrimaryKeyConstraint("group_id", "generation", "number", name="pk_converge_partition"),
)

# the last message of each sender that was handled in a partition
position = Table(
    PREFIX + "position",
    metadata,
    Column("group_id", ID, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("sink", NAME, nullable=False),
    Column("sender", String(64), nullable=False),
    Column("sequence", ID, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint(
        "group_id", "generation", "number", "sink", "sender", name="pk_converge_position"
    ),
)

signal = Table(
    PREFIX + "signal",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("resource_id", ID, nullable=False),
    Column("name", NAME, nullable=False),
    # of two with the same one, the second is ignored
    Column("token", NAME, nullable=False),
    Column("data", SealedJson),
    # why what is waited for has failed
    Column("failure", String(REASON_LENGTH)),
    # a handler has it
    Column("taken", Boolean, nullable=False),
    Column("sent_at", Double, nullable=False),
    UniqueConstraint(
        "resource_id", "name", "token", name="uniq_converge_signal0resource_id0name0token"
    ),
)

event = Table(
    PREFIX + "event",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("stack_id", ID, nullable=False),
    Column("traversal_id", ID, nullable=False),
    Column("at", Double, nullable=False),
    Column("resource", NAME),
    Column("action", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(REASON_LENGTH)),
    Index("ix_converge_event_stack_id", "stack_id", "id"),
)

# each message once, whether an event was made of it or not
notification = Table(
    PREFIX + "notification",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("message_id", NAME, nullable=False),
    Column("event_type", NAME, nullable=False),
    Column("publisher_id", NAME, nullable=False),
    Column("priority", NAME, nullable=False),
    Column("at", Double, nullable=False),
    Column("recorded_at", Double, nullable=False),
    # 1 if it is an event, 0 if it is not, or the store has refused it
    Column("is_event", Integer, nullable=False),
    # of the batch that recorded it
    Column("token", String(32), nullable=False),
    UniqueConstraint("message_id", name="uniq_converge_notification0message_id"),
    Index("ix_converge_notification_event_type", "event_type", "at"),
    Index("ix_converge_notification_at", "at"),
)

trait = Table(
    PREFIX + "trait",
    metadata,
    Column("notification_id", ID, nullable=False),
    Column("name", NAME, nullable=False),
    Column("type", String(8), nullable=False),
    # of every type, exactly
    Column("text", NAME, nullable=False),
    # of a number or a time, to compare with
    Column("number", Double),
    PrimaryKeyConstraint("notification_id", "name", name="pk_converge_trait"),
    Index("ix_converge_trait_name", "name", "text"),
)

sample = Table(
    PREFIX + "sample",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("sample_id", String(36), nullable=False),
    Column("name", NAME, nullable=False),
    Column("type", String(16), nullable=False),
    Column("unit", NAME, nullable=False),
    Column("volume", Double, nullable=False),
    Column("resource_id", NAME),
    Column("user_id", NAME),
    Column("project_id", NAME),
    Column("at", Double, nullable=False),
    Column("metadata", JsonText, nullable=False),
    UniqueConstraint("sample_id", name="uniq_converge_sample0sample_id"),
    Index("ix_converge_sample_name", "name", "at"),
)

# the way of a notification through a sink, for as long as it has not come to its end
delivery = Table(
    PREFIX + "delivery",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    # the message id; of what a step has collected, an id of its own
    Column("origin", NAME, nullable=False),
    Column("sink", NAME, nullable=False),
    # the partition
    Column("share", Integer, nullable=False),
    Column("state", String(8), nullable=False),
    # the stage that comes next, and its name
    Column("position", Integer, nullable=False),
    Column("step", NAME),
    # changes at every write
    Column("version", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    # when a sweep may take it; NULL: whoever has its message goes on with it, or it FAILED
    Column("next_at", Double),
    # what comes into the next stage; NULL: what the message gives
    Column("items", JsonText),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("origin", "sink", "share", name="uniq_converge_delivery0origin0sink0share"),
    _partial("ix_converge_delivery_next_at", "next_at", where="next_at IS NOT NULL"),
    # what is in partitions
    _partial("ix_converge_delivery_share", "share", "id", where="share != 0"),
)

# what a step knows of a key
step_state = Table(
    PREFIX + "step_state",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    Column("sink", NAME, nullable=False),
    Column("step", NAME, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("key", JsonText, nullable=False),
    Column("share", Integer, nullable=False),
    Column("state", JsonText, nullable=False),
    Column("deadline_at", Double),
    Column("updated_at", Double, nullable=False),
    # random, changes at every write
    _mark(),
    UniqueConstraint("sink", "step", "digest", name="uniq_converge_step_state0sink0step0digest"),
    _partial("ix_converge_step_state_deadline_at", "deadline_at", where="deadline_at IS NOT NULL"),
)

dead_letter = Table(
    PREFIX + "dead_letter",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=True),
    # of what it is and where it failed, so that each is there once
    Column("digest", String(64), nullable=False),
    Column("reason", String(16), nullable=False),
    Column("message", String(REASON_LENGTH), nullable=False),
    Column("raw", JsonText, nullable=False),
    Column("headers", JsonText, nullable=False),
    Column("origin", NAME),
    Column("event_type", NAME),
    Column("sink", NAME),
    Column("step", NAME),
    Column("delivery_id", ID),
    Column("count", Integer, nullable=False),
    Column("first_at", Double, nullable=False),
    Column("last_at", Double, nullable=False),
    # somebody asked for it to be tried again
    Column("retry_at", Double),
    # of the batch that it was in last
    Column("token", String(32), nullable=False),
    UniqueConstraint("digest", name="uniq_converge_dead_letter0digest"),
    _partial("ix_converge_dead_letter_retry_at", "retry_at", where="retry_at IS NOT NULL"),
)
