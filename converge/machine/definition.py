"""The definition of a machine: states, transitions and timeouts, declared as data and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from converge.errors import BadInput, did_you_mean
from converge.model import check_name, check_seconds
from converge.retry import RetryPolicy
from converge.synchronous import ASYNC, check_finished, deferred_kind

if TYPE_CHECKING:
    from converge.machine import Action

#: A guard gets the last payload of each earlier event, by event, and the payload of this one.
Guard = Callable[[Mapping[str, Any], Any], bool]


@dataclass(frozen=True, slots=True)
class State:
    """A state of a machine.

    :ivar timeout: seconds in this state after which an event fires; None for no limit.
    :ivar on_timeout: that event.
    :ivar terminal: whether it is an end: no transition leaves it.
    """

    timeout: float | None = None
    on_timeout: str = "timeout"
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """What an event does in a state.

    If there are several for one event in one state, the first one whose guard allows it is taken.

    :ivar source: the state, or several states, that it leaves.
    :ivar target: the state that it leads to.
    :ivar guard: returns whether it may be taken. It gets the last payload of each earlier event, by
        event, and the payload of this one, and must depend on nothing else.
    :ivar action: called after the move is committed, with an :class:`~converge.machine.Action`.
    :ivar retry: when a failed action is tried again.
    """

    event: str
    source: str | Sequence[str]
    target: str
    guard: Guard | None = None
    action: Callable[[Action], object] | None = None
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(attempts=10))

    @property
    def sources(self) -> tuple[str, ...]:
        """The states that it leaves."""
        if isinstance(self.source, str):
            return (self.source,)
        return tuple(_sequence("source", self.source))


@dataclass(frozen=True)
class Definition:
    """The definition of a machine, checked when it is made.

    :ivar name: its name, which its instances refer to; it must never change.
    :ivar initial: the state of a new instance.
    :ivar states: the states, by name.
    :ivar version: to be raised when states or transitions change.
    :ivar migrations: for each older version: old state → new state. A state that is not named keeps
        its name.
    :raises BadInput: the definition is wrong; the message says what is wrong, and where.
    """

    name: str
    initial: str
    states: Mapping[str, State]
    transitions: Sequence[Transition]
    version: int = 1
    migrations: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("machine", self.name)
        if type(self.version) is not int or self.version < 1:
            raise self._wrong(f"version must be a whole number from 1, not {self.version!r}")
        # copies: changes after the check must have no effect
        object.__setattr__(self, "states", dict(_mapping("states", self.states)))
        object.__setattr__(self, "transitions", tuple(self.transitions))
        if not self.states:
            raise self._wrong("it has no states")
        for name, state in self.states.items():
            check_name("state", name)
            self._check_attributes(f"state {name!r}", state)
        self._check_state("initial", self.initial)
        for number, transition in enumerate(self.transitions):
            self._check_transition(number + 1, transition)
        object.__setattr__(self, "_by_event", self._index())
        self._check_guards()
        self._check_timeouts()
        self._check_reachable()
        self._check_migrations()

    # -- reading

    @classmethod
    def of(cls, what: object) -> Definition:
        """Read a definition: a :class:`Definition`, a mapping, or a class with its attributes.

        :raises BadInput: it is none of these, or is wrong.
        """
        if isinstance(what, Definition):
            return what
        known = [one.name for one in fields(cls) if one.init]
        if isinstance(what, Mapping):
            given = dict(what)
            for key in given:
                if key not in known:
                    raise BadInput(f"a machine has no {key!r}{did_you_mean(str(key), known)}")
        elif isinstance(what, type):
            given = {name: getattr(what, name) for name in known if hasattr(what, name)}
            given.setdefault("name", what.__name__.lower())
            for key, value in vars(what).items():
                # a class may have guards and constants, too; refuse only likely misspellings
                if not callable(value) and key not in known and get_close_matches(key, known, n=1):
                    raise BadInput(f"a machine has no {key!r}{did_you_mean(key, known)}")
        else:
            raise BadInput(
                f"a machine is a Definition, a mapping or a class, not {type(what).__name__}"
            )
        for key in ("name", "initial", "states", "transitions"):
            if key not in given:
                raise BadInput(f"machine {given.get('name', '')!r} has no {key}")
        given["states"] = {
            name: _make(State, f"state {name!r}", {} if state is None else state)
            for name, state in _mapping("states", given["states"]).items()
        }
        given["transitions"] = tuple(
            _make(Transition, f"transition {number + 1}", one)
            for number, one in enumerate(_sequence("transitions", given["transitions"]))
        )
        return cls(**given)

    def events(self, state: str) -> list[str]:
        """The events that have a transition from a state."""
        return sorted(event for source, event in self._by_event if source == state)

    @property
    def all_events(self) -> list[str]:
        """The events of all transitions."""
        return sorted({event for _, event in self._by_event})

    @property
    def has_actions(self) -> bool:
        """Whether any transition has one."""
        return any(one.action is not None for one in self.transitions)

    @property
    def versions(self) -> list[int]:
        """The versions whose instances can be moved: this one, and those with a migration."""
        return sorted({self.version, *self.migrations})

    def find(self, version: int, source: str, event: str, target: str) -> Transition | None:
        """The transition with an action that made a move.

        :param version: the version that made it; may be older.
        :returns: None if this version has no such transition.
        """
        names = self.migrations.get(version, {}) if version != self.version else {}
        source, target = names.get(source, source), names.get(target, target)
        for transition in self._by_event.get((source, event), ()):
            if transition.target == target and transition.action is not None:
                return transition
        return None

    def choose(
        self, state: str, event: str, payloads: Mapping[str, Any], payload: Any
    ) -> Transition | None:
        """The transition that an event takes; None if the event is illegal, or no guard allows
        it."""
        for transition in self._by_event.get((state, event), ()):
            if transition.guard is None:
                return transition
            allows = transition.guard(payloads, payload)
            check_finished(allows, f"the guard of {event!r}")
            if allows:
                return transition
        return None

    def migrate(self, version: int, state: str) -> str:
        """The state in this version for a state of another version.

        :raises BadInput: there is no migration from that version or state.
        """
        if version == self.version:
            return state
        if version > self.version:
            raise self._wrong(
                f"an instance is of version {version}, which is newer than this program's "
                f"{self.version}"
            )
        if version not in self.migrations:
            raise self._wrong(
                f"an instance is of version {version}, and migrations has no entry for it; "
                f"add migrations[{version}]"
            )
        new = self.migrations[version].get(state, state)
        if new not in self.states:
            raise self._wrong(
                f"an instance of version {version} is in state {state!r}, which version "
                f"{self.version} does not have; add it to migrations[{version}]"
            )
        return new

    def terminal_in(self, version: int) -> list[str]:
        """The states of a version that are terminal, or migrate to a terminal one."""
        names = {} if version == self.version else self.migrations[version]
        return sorted(
            name for name in {*self.states, *names} if self._is_terminal(names.get(name, name))
        )

    def _is_terminal(self, name: str) -> bool:
        return name in self.states and self.states[name].terminal

    def moves(self) -> list[tuple[str, str, str]]:
        """All moves, for drawing: source, target, and event with its guard's name."""
        return [
            (
                source,
                one.target,
                one.event + ("" if one.guard is None else f" [{_name(one.guard)}]"),
            )
            for one in self.transitions
            for source in one.sources
        ]

    # -- checks

    _by_event: Mapping[tuple[str, str], list[Transition]] = field(
        init=False, repr=False, compare=False
    )

    def _index(self) -> dict[tuple[str, str], list[Transition]]:
        found: dict[tuple[str, str], list[Transition]] = {}
        for transition in self.transitions:
            for source in transition.sources:
                found.setdefault((source, transition.event), []).append(transition)
        return found

    def _wrong(self, what: str) -> BadInput:
        return BadInput(f"machine {self.name!r}: {what}")

    def _check_state(self, where: str, name: object) -> None:
        if name not in self.states:
            raise self._wrong(
                f"{where}: there is no state {name!r}{did_you_mean(str(name), self.states)}"
            )

    def _check_attributes(self, where: str, state: object) -> None:
        if not isinstance(state, State):
            raise self._wrong(f"{where} must be a State, not {type(state).__name__}")
        if type(state.terminal) is not bool:
            raise self._wrong(f"{where}: terminal must be True or False, not {state.terminal!r}")
        check_name("event", state.on_timeout)
        if state.timeout is not None:
            check_seconds(f"machine {self.name!r}, {where}: timeout", state.timeout)

    def _check_transition(self, number: int, transition: object) -> None:
        where = f"transition {number}"
        if not isinstance(transition, Transition):
            raise self._wrong(f"{where} must be a Transition, not {type(transition).__name__}")
        check_name("event", transition.event)
        where += f" ({transition.event!r})"
        if not transition.sources:
            raise self._wrong(f"{where} has no source")
        for source in transition.sources:
            self._check_state(f"{where}: source", source)
            if self.states[source].terminal:
                raise self._wrong(f"{where} leaves {source!r}, which is terminal")
        self._check_state(f"{where}: target", transition.target)
        for name, function in (("guard", transition.guard), ("action", transition.action)):
            if function is not None and not callable(function):
                raise self._wrong(f"{where}: its {name} is not a function: {function!r}")
            kind = deferred_kind(function)
            if kind is not None and (name, kind) != ("action", ASYNC):
                raise self._wrong(f"{where}: its {name} is {kind}, which a call would not run")
        if not isinstance(transition.retry, RetryPolicy):
            raise self._wrong(f"{where}: retry must be a RetryPolicy, not {transition.retry!r}")

    def _check_guards(self) -> None:
        for (source, event), choices in self._by_event.items():
            guards = [one.guard for one in choices]
            if None in guards[:-1]:
                raise self._wrong(
                    f"{event!r} in state {source!r} is ambiguous: a transition without a guard "
                    "comes before another, which could never be taken"
                )
            named = [guard for guard in guards if guard is not None]
            if len(set(map(id, named))) != len(named):
                raise self._wrong(
                    f"{event!r} in state {source!r} is ambiguous: "
                    "two transitions have the same guard"
                )
            actions: dict[str, Transition] = {}
            for one in choices:
                first = actions.setdefault(one.target, one)
                if (first.action, first.retry) != (one.action, one.retry):
                    # a move does not record which transition made it
                    raise self._wrong(
                        f"{event!r} in state {source!r} is ambiguous: two transitions lead to "
                        f"{one.target!r}, with different actions or retries"
                    )

    def _check_timeouts(self) -> None:
        for name, state in self.states.items():
            if state.timeout is None:
                continue
            if state.terminal:
                raise self._wrong(f"state {name!r} is terminal, so it cannot have a timeout")
            if (name, state.on_timeout) not in self._by_event:
                raise self._wrong(
                    f"state {name!r} has a timeout, but no transition for {state.on_timeout!r}"
                )
            if all(one.guard is not None for one in self._by_event[name, state.on_timeout]):
                raise self._wrong(
                    f"state {name!r}: its timeout must have a transition without a guard"
                )

    def _check_reachable(self) -> None:
        onward: dict[str, set[str]] = {name: set() for name in self.states}
        back: dict[str, set[str]] = {name: set() for name in self.states}
        for source, target, _ in self.moves():
            onward[source].add(target)
            back[target].add(source)
        unreachable = self.states.keys() - _closure([self.initial], onward)
        if unreachable:
            raise self._wrong(f"no transition leads to state {_listed(unreachable)}")
        for name, state in self.states.items():
            if not state.terminal and not onward[name]:
                raise self._wrong(
                    f"no transition leaves state {name!r}, which is not terminal; add one, or "
                    "make it terminal"
                )
        terminal = [name for name, state in self.states.items() if state.terminal]
        caught = self.states.keys() - _closure(terminal, back)
        if terminal and caught:
            raise self._wrong(f"no terminal state can be reached from state {_listed(caught)}")

    def _check_migrations(self) -> None:
        for version, names in _mapping("migrations", self.migrations).items():
            if not isinstance(version, int) or not 1 <= version < self.version:
                raise self._wrong(
                    f"migrations are from versions 1 to {self.version - 1}, not from {version!r}"
                )
            for old, new in _mapping(f"migrations[{version}]", names).items():
                self._check_state(f"migrations[{version}][{old!r}]", new)


def _closure(start: Iterable[str], ways: Mapping[str, set[str]]) -> set[str]:
    seen = set(start)
    todo = list(seen)
    while todo:
        for further in ways[todo.pop()] - seen:
            seen.add(further)
            todo.append(further)
    return seen


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def _name(function: object) -> str:
    return str(getattr(function, "__name__", function))


def _mapping(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{what} must be a mapping, not {type(value).__name__}")
    return value


def _sequence(what: str, value: object) -> Iterable[Any]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise BadInput(f"{what} must be a list, not {type(value).__name__}")
    return value


def _make(kind: type[Any], where: str, value: object) -> Any:
    if isinstance(value, kind):
        return value
    given = _mapping(where, value)
    known = [one.name for one in fields(kind)]
    for key in given:
        if key not in known:
            raise BadInput(f"{where} has no {key!r}{did_you_mean(str(key), known)}")
    try:
        return kind(**given)
    except TypeError as error:
        raise BadInput(f"{where}: {error}") from None
