"""What the author of a resource type implements, and what handlers are given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from converge.errors import BadInput, ConvergeError
from converge.model import Json, Replacing, check_seconds
from converge.resources.journaled import Journaled
from converge.retry import RetryPolicy
from converge.synchronous import ASYNC, check_finished, deferred_kind
from converge.wait import Wait

if TYPE_CHECKING:
    from converge.journal import Scope


@dataclass(frozen=True, slots=True)
class Property:
    """The declaration of one property of a resource type.

    :param type: the Python type of its JSON value (``str``, ``int``, ``float``, ``bool``,
        ``list``, ``dict``), or ``object`` for any.
    :param required: whether it must be given.
    :param default: its value where it is not given, or null; None: it is left out.
    :param constraints: what its value must meet, by kind, as for parameters of a template:
        ``allowed_values``, ``range``, ``length``, ``modulo`` or ``allowed_pattern``.
    :param immutable: a changed value replaces the resource, without a call of ``update``.
    :param description: for people, and their editors.
    :param texts: the values in its mapping are texts: strings, or numbers and booleans, which the
        type writes as JSON. In a template, one that would then read otherwise than it is written,
        such as ``NO`` or ``3.10``, is refused.
    :param secret: its value is shown nowhere: ``***`` takes its place, also in reasons and
        tracebacks, and in properties and attributes of other resources that contain it.
    :param nullable: whether null counts as not given, if it is not required; otherwise it is
        refused: where a value that is missing by mistake would do harm.
    """

    type: type = object
    required: bool = False
    texts: bool = False
    default: Json = None
    constraints: Mapping[str, Json] = field(default_factory=dict)
    immutable: bool = False
    description: str | None = None
    secret: bool = False
    nullable: bool = True

    @property
    def takes_null(self) -> bool:
        """Whether null counts as not given."""
        return self.nullable and not self.required


class How(StrEnum):
    """How a resource gets from its properties to others."""

    UPDATE = "update"
    REPLACE = "replace"
    #: nothing real differs: the new properties are only noted
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Planned:
    """What a type's ``plan`` says of a change.

    :param how: ``update`` (in place; the physical id stays), ``replace`` or ``nothing``. Of a
        resource that is yet to be made, it does not matter.
    :param attributes: those that are known already, as they will be.
    :param physical_id: of what will be made, if it is known already.
    :param reason: why it is replaced, for people.
    :raises BadInput: there is no such way.
    """

    how: How | str = How.UPDATE
    attributes: Mapping[str, Json] = field(default_factory=dict)
    physical_id: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.how not in set(How):
            raise BadInput(f"how must be {', '.join(How)}, not {self.how!r}")


@dataclass(frozen=True, slots=True)
class Real:
    """What a type's ``read`` found.

    :ivar properties: the real values of those that it can tell; None: it has none. One that is left
        out counts as it is. Leave out what the outside chose by itself: a property that the
        template does not set, and that has a value, has drifted.
    :ivar attributes: all of them; None leaves them as they are.
    """

    properties: Mapping[str, Json] = field(default_factory=dict)
    attributes: Mapping[str, Json] | None = None


_LOCK = threading.Lock()
#: Waits for a signal: its name, the timeout, and what people are told.
Receive = Callable[["Context", str, float | None, str | None], Json]


class Nested(Protocol):
    """What the handler of a nested stack does to it; see :mod:`converge.protocol.nest`."""

    def bring_about(self, context: Context, properties: Mapping[str, Any]) -> Any:
        """Bring it to a template and parameters."""

    def check(self, context: Context) -> None:
        """Look at its real things."""

    def delete(self, context: Context) -> None:
        """Delete it, if it is there."""


class Context(Journaled):
    """What a handler is given about its node.

    :ivar stack: the stack's name.
    :ivar name: the resource's name.
    :ivar attempt: which attempt of this node this is, from 1.
    :ivar token: an idempotency token: the same for every attempt of the same piece of work,
        also by another engine; hand it to outside services.
    :ivar resource_token: the token of the resource's ``create``, in every handler: if ``create``
        labels the real thing with it, ``update`` and ``delete`` can recognize it.
    :ivar stack_token: a text that no other stack has, not even a later one of the same name.
    :ivar physical_id: the physical id known so far, None if there is none.
    :ivar properties: the properties that the resource was last brought to.
    :ivar attributes: its attributes as last recorded.
    :ivar cancelled: set when the handler should give up: the traversal was cancelled or ran
        out of time, a newer one deletes or replaces the resource, the engine is stopping at
        once, or it is about to lose its lease.
    :ivar cancel_reason: why, as a text; None until then.
    :ivar interrupted: the engine cancelled it, as it stops or loses its lease: whatever the handler
        then raises is not a failure, and it is called again.
    :ivar timeout: seconds that this call may take, None for no limit.
    :ivar waited: if the handler has raised :class:`~converge.Wait` before: seconds since the first
        call of this attempt, by the database's clock. 0 in that first call.
    :ivar directory: for a type with ``relative_paths``: where relative paths in its properties
        start, which is the folder of its template when the resource was last created or updated;
        None if the template is from no file.
    :ivar failures: for a resource that ``runs: always``: the reasons of the first 20 resources that
        have failed in its traversal, by their names. Empty: none has failed so far.
    """

    no_journal = "this context is not an engine's, so it has no journal"

    def __init__(
        self,
        stack: str,
        name: str,
        *,
        attempt: int = 1,
        token: str = "",
        resource_token: str = "",
        stack_token: str = "",
        physical_id: str | None = None,
        properties: Mapping[str, Json] | None = None,
        attributes: Mapping[str, Json] | None = None,
        timeout: float | None = None,
        waited: float = 0.0,
        directory: str | None = None,
        failures: Mapping[str, str] | None = None,
        record: Callable[[str | None], None] | None = None,
        journal: Callable[[], Scope] | None = None,
        receive: Receive | None = None,
        nest: Nested | None = None,
    ) -> None:
        super().__init__(journal)
        self.stack = stack
        self.name = name
        self.attempt = attempt
        self.token = token
        self.resource_token = resource_token
        self.stack_token = stack_token
        self.physical_id = physical_id
        self.properties: Mapping[str, Json] = properties or {}
        self.attributes: Mapping[str, Json] = attributes or {}
        self.timeout = timeout
        self.waited = waited
        self.directory = directory
        self.failures: Mapping[str, str] = failures or {}
        self.cancel_reason: str | None = None
        self.interrupted = False
        self._record = record
        self._receive = receive
        self._nest = nest
        self._cancelled: threading.Event | None = None

    @property
    def cancelled(self) -> threading.Event:
        """Set when the handler should give up."""
        # most handlers never use it, and an Event is three objects
        if self._cancelled is None:
            with _LOCK:
                if self._cancelled is None:
                    self._cancelled = threading.Event()
        return self._cancelled

    def cancel(self, reason: str, *, interrupted: bool = False) -> None:
        """Tell the handler to give up; for engines and tests.

        :param reason: why; the first one stays.
        :param interrupted: the engine stops, or loses its lease.
        """
        if self.cancel_reason is None:
            self.cancel_reason = reason
        self.interrupted = self.interrupted or interrupted
        self.cancelled.set()

    def record(self, physical_id: str | None) -> None:
        """Store the physical id at once, before ``create`` ends.

        If the engine dies or ``create`` fails afterwards, the next ``create`` finds it in
        ``physical_id``, and a delete is called with it.

        :param physical_id: None, in a ``create`` only, takes the record back: nothing was made, and
            there is nothing to delete.
        :raises BadInput: it cannot be stored.
        :raises StaleLock: the work is no longer this engine's; stop at once.
        """
        if self._record is not None:
            self._record(physical_id)
        self.physical_id = physical_id

    def wait_signal(
        self, name: str = "signal", *, timeout: float | None = None, progress: str | None = None
    ) -> Json:
        """The data of the next signal of that name to this resource: ``converge signal``,
        :meth:`converge.Store.signal`.

        If none has come yet, the handler ends here: it raises a :class:`~converge.Wait`, which must
        propagate, and is called again when there is one. No thread is held. A signal that comes
        early is kept. Each is delivered once: what this returned is recorded in the journal, and
        the next call of the handler has it again.

        :param timeout: seconds since the first call of this attempt after which
            :class:`~converge.SignalTimeout` is raised.
        :param progress: what people are told meanwhile; default: what it waits for.
        :raises SignalFailed: the signal says that it failed. In the next attempt, this waits for
            another one.
        :raises ConvergeError: the context is not an engine's.
        """
        if self._receive is None:
            raise ConvergeError("this context is not an engine's, so no signal can come")
        return self._receive(self, name, timeout, progress)

    @property
    def nest(self) -> Nested:
        """The resource's own stack, if its type says :attr:`ResourceType.nests`.

        :raises ConvergeError: it does not, or the context is not an engine's.
        """
        if self._nest is None:
            raise ConvergeError(
                "there is no nested stack: the resource's type does not say `nests = True`, or "
                "this context is not an engine's"
            )
        return self._nest


class ResourceType:
    """How one kind of resource is created, updated and deleted. Subclass it; instances must be
    stateless, as several threads share one.

    Its methods are plain functions, which an engine calls in one of its threads, or ``async def``,
    which it runs on its event loop, thousands at once: they get a :class:`~converge.AsyncContext`.
    Their work is done when they return. ``plan`` is always plain.
    ``create`` and ``delete`` are required. ``update``, ``check``, ``read``, ``find`` and ``plan``
    are optional:

    ``update(context, physical_id, properties, previous)``
        change it from ``previous`` to ``properties``; return None, or a
        :class:`~converge.Physical` with new attributes; raise :class:`~converge.Replace` if
        that needs a new one. Without this method, a change of a property replaces the resource.
    ``check(context, physical_id, properties)``
        raise :class:`~converge.Drifted` if the real thing is not as it should be: the next update
        mends it. Any other exception is a failure.
    ``read(context, physical_id)``
        look at the real thing, and return a :class:`~converge.Real`; raise :class:`~converge.Gone`
        if there is none. It must change nothing. A check calls it, and what differs from
        ``context.properties`` has drifted: a later ``update`` has the real values in ``previous``,
        None for those of secrets. One that is gone is replaced, and a ``delete`` comes for the
        old one all the same. Of a resource with an ``external_id``, the context has no
        properties.
    ``plan(context, properties, previous)``
        say, before anything is done, how ``previous`` becomes ``properties``: a
        :class:`~converge.Planned`, or None if it cannot be known. It is asked for a plan, and again
        before each update, which does as it says: ``update`` is called only for ``update``. With
        ``previous`` None, of a resource that is yet to be made, only the attributes count. It must
        be quick, and change nothing; the context has no journal.
    ``find(context)``
        return what an interrupted ``create`` with ``context.token`` made (a ``Physical``), or
        None. Called before a delete that knows no physical id.

    Each of them can raise :class:`~converge.Wait`, or return it, to be called again later.
    """

    #: Declared properties; None accepts any.
    schema: ClassVar[Mapping[str, Property] | None] = None
    #: All attributes that it can have; None if that is not known. A template that refers to another
    #: one is refused.
    attribute_names: ClassVar[Collection[str] | None] = None
    #: Attributes whose values are shown nowhere, as those of secret properties.
    secret_attributes: ClassVar[Collection[str]] = ()
    #: Properties that only ``delete`` and ``check`` use. If a template changes no others of a
    #: resource, they are stored without a call of ``update``, even for a resource whose delete has
    #: failed: so a wrong delete can be corrected.
    delete_properties: ClassVar[tuple[str, ...]] = ()
    #: The property that says how to check a resource; one without it counts as not checked. None if
    #: ``check`` needs none.
    check_property: ClassVar[str | None] = None
    #: In which order one is replaced by a new one: ``create_first``, or, for things of which there
    #: can be only one, ``delete_first``. A template can override it for a resource.
    replace: ClassVar[str] = Replacing.CREATE_FIRST
    #: The property by which it takes over what is there, if it touches nothing that it has not made
    #: itself: then nothing can be adopted by its id.
    adopt_property: ClassVar[str | None] = None
    #: Whether its properties have paths: then handlers are given ``context.directory``.
    relative_paths: ClassVar[bool] = False
    #: Whether its things are stacks. Whatever limits handlers, of them it limits those within.
    nests: ClassVar[bool] = False
    #: When a failed call is retried. A template can override it for a resource.
    retry: ClassVar[RetryPolicy] = RetryPolicy()
    #: Seconds that one call may take, or, of a handler that waits, all calls of an attempt together
    #: with the waits between them; None for no limit. A template can override it for a resource.
    timeout: ClassVar[float | None] = None

    def limits(self, properties: Mapping[str, Any]) -> Collection[str]:
        """The author's keys of a resource with these properties, such as ``account:prod``: a limit
        that is set for one of them counts for it. It is asked in a transaction, so it must be
        quick, and do nothing else. Secrets that are kept elsewhere are not in the properties.
        """
        return ()

    def secret_properties(self, properties: Mapping[str, Any]) -> Collection[str]:
        """The names of properties that are secret, besides those that the schema declares."""
        return ()

    # the context is Any, so that it can be an AsyncContext for type checkers, too

    def create(self, context: Any, properties: Mapping[str, Any]) -> Any:
        """Make it.

        :returns: a :class:`~converge.Physical`, a physical id, or None (the token is its id).
        """
        raise NotImplementedError(f"{type(self).__name__} must define create()")

    def delete(self, context: Any, physical_id: str) -> Any:
        """Remove it. One that is already gone is no error: a failed delete is called again."""
        raise NotImplementedError(f"{type(self).__name__} must define delete()")


#: The methods that an engine may call.
METHODS = ("create", "update", "delete", "check", "read", "find", "plan")


def supports(resource_type: ResourceType, method: str) -> bool:
    """Whether the type has the optional ``update``, ``check``, ``read``, ``find`` or ``plan``."""
    return callable(getattr(resource_type, method, None))


def plan_change(
    resource_type: ResourceType,
    context: Context,
    properties: Mapping[str, Json],
    previous: Mapping[str, Json] | None,
) -> Planned | None:
    """What the type's ``plan`` says of a change.

    :param previous: None if it is yet to be made.
    :returns: None if it does not say, or has no ``plan``.
    :raises BadInput: it says something else.
    """
    if not supports(resource_type, "plan"):
        return None
    said: Any = resource_type.plan(context, properties, previous)  # type: ignore[attr-defined]
    check_finished(said, "plan")
    if isinstance(said, str):
        said = Planned(said)
    if not isinstance(said, Planned | None):
        raise BadInput(f"plan must return converge.Planned or None, not {type(said).__name__}")
    return said


def check_over(made: object, method: str) -> None:
    """Check that a method has done its work when it returns.

    :raises Wait: it asks to be called again.
    """
    check_finished(made, method)
    if isinstance(made, Wait):
        raise made


def check_real(found: object) -> Real:
    """Check what a type's ``read`` returned.

    :raises BadInput: it is something else; None, too: what is not said is not gone.
    """
    if not isinstance(found, Real):
        raise BadInput(
            f"read must return converge.Real, or raise converge.Gone, not {type(found).__name__}"
        )
    return found


def can_check(resource_type: ResourceType, properties: Mapping[str, Json]) -> bool:
    """Whether a resource of the type with these properties can be checked."""
    if not supports(resource_type, "check"):
        return False
    needed = resource_type.check_property
    return needed is None or properties.get(needed) is not None


def check_types(types: Mapping[str, ResourceType]) -> None:
    """Check that an engine can work with these resource types.

    :raises BadInput: one of them is not a ResourceType, its ``retry`` or ``timeout`` is wrong, or
        an engine cannot run one of its methods.
    """
    for name, one in types.items():
        if not isinstance(one, ResourceType):
            raise BadInput(
                f"resource type {name!r} must be an instance of ResourceType, not {one!r}"
            )
        if not isinstance(one.retry, RetryPolicy):
            raise BadInput(
                f"resource type {name!r}: retry must be a RetryPolicy, not {one.retry!r}"
            )
        if one.timeout is not None:
            check_seconds(f"resource type {name!r}: timeout", one.timeout)
        if one.replace not in set(Replacing):
            raise BadInput(
                f"resource type {name!r}: replace must be {' or '.join(Replacing)}, "
                f"not {one.replace!r}"
            )
        _check_secret_attributes(name, one)
        for method in METHODS:
            kind = deferred_kind(getattr(one, method, None))
            if kind is None or (kind == ASYNC and method != "plan"):
                continue
            like = "a plain function" + ("" if method == "plan" else " or async def")
            raise BadInput(
                f"resource type {name!r}: {method} is {kind}, which an engine's call would "
                f"not run; make it {like} that returns when it is done"
            )
        if supports(one, "find") and is_async(one, "find") != is_async(one, "delete"):
            raise BadInput(
                f"resource type {name!r}: find and delete are called together, so both must be "
                "async def, or both plain"
            )


def is_async(resource_type: ResourceType, method: str) -> bool:
    """Whether a method of the type is ``async def``."""
    found = getattr(resource_type, method, None)
    function = getattr(found, "__func__", found)
    # asked for each node; what a plain function is, it stays
    return _is_async(function) if isinstance(function, FunctionType) else _is_async_now(found)


def _is_async_now(function: object) -> bool:
    return deferred_kind(function) == ASYNC


_is_async = lru_cache(maxsize=1024)(_is_async_now)


def _check_secret_attributes(name: str, one: ResourceType) -> None:
    what = f"resource type {name!r}: secret_attributes"
    if isinstance(one.secret_attributes, str):
        raise BadInput(f"{what} must be names, not the text {one.secret_attributes!r}")
    known = one.attribute_names
    unknown = [] if known is None else [one for one in one.secret_attributes if one not in known]
    if unknown:
        raise BadInput(f"{what} names {unknown[0]!r}, which is not in attribute_names")
