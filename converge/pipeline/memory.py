"""The steps that remember: rates, aggregates, and those that wait for others of a key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from converge.errors import BadInput, did_you_mean
from converge.model import Json
from converge.pipeline.items import (
    Event,
    Group,
    Item,
    Sample,
    from_json,
    from_json_list,
    get_value,
    make_id,
    to_json,
)
from converge.pipeline.patterns import Patterns
from converge.pipeline.steps import Advance, StatefulStep

#: The most items that a step holds of one key, unless its parameters say fewer: the state is
#: written anew with each batch.
MOST_ITEMS = 10_000
#: Seconds that a rate waits for earlier samples, unless its parameters say otherwise: twice a
#: lease, after which others go on with what a member has left behind.
GRACE = 30.0
FUNCTIONS = ("sum", "mean", "min", "max", "count", "last")


class _Keyed(StatefulStep):
    """A step whose key is made of fields.

    :param by: names of fields.
    """

    def __init__(self, by: str | Sequence[str]) -> None:
        self._by = [by] if isinstance(by, str) else list(by)
        if not self._by or not all(isinstance(one, str) and one for one in self._by):
            raise BadInput("by must be the name of a field, or a list of names")

    def key(self, item: Item) -> Json:
        """The values of the fields; None if the item has none of them."""
        values = [get_value(item, name) for name in self._by]
        return None if all(value is None for value in values) else values


def _check_number(name: str, value: Any, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf
    ):
        wanted = "a whole number above 0" if whole else "a number of seconds above 0"
        raise BadInput(f"{name} must be {wanted}, not {value!r}")


class RateOfChange(_Keyed):
    """How fast a volume changes: the difference to the sample before, for each second.

    Samples are compared in the order of their time, not in that in which they come: several
    agents may record what one resource has sent in another order. So each one is held for a while.
    If none comes more than ``grace`` seconds behind one of its key that is not earlier, the
    result does not depend on the order in which they come. One that comes later than that gives
    nothing.

    The first sample of a key gives nothing, and neither does one that is not later than the one
    before; of those with the same time, the one with the least id counts. A cumulative volume that
    became less was reset: it starts anew.

    :param by: what is compared with each other.
    :param name: of the result; fields in braces.
    :param unit: of the result.
    :param factor: what the rate is multiplied with.
    :param grace: seconds that a sample waits for earlier ones; 0: they are compared as they come.
    """

    forgets = True

    def __init__(
        self,
        by: str | Sequence[str] = ("name", "resource_id"),
        name: str = "{name}.rate",
        unit: str = "{unit}/s",
        factor: float = 1,
        grace: float = GRACE,
    ) -> None:
        from converge.pipeline.steps import Form

        super().__init__(by)
        self._name, self._unit = Form(name), Form(unit)
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise BadInput(f"factor must be a number, not {factor!r}")
        _check_grace(grace)
        self._factor, self._grace = factor, grace

    def key(self, item: Item) -> Json:
        """The key of a sample; events go on as they are."""
        return super().key(item) if isinstance(item, Sample) else None

    def advance(self, state: Json, item: Item, now: float) -> Advance:
        """Hold a sample, and give the rates of those that have waited for long enough."""
        assert isinstance(item, Sample)
        last, held = _last_and_held(state)
        if last is None or item.at > last[0]:
            held = [*held, [now, to_json(item)]]
        return self._release(last, held, now)

    def expire(self, state: Json, now: float) -> Advance:
        """Give the rates of those that have waited for long enough: of the first one, at least."""
        last, held = _last_and_held(state)
        return self._release(last, held, max(now, self._deadline(held) or now))

    def _deadline(self, held: Sequence[Any]) -> float | None:
        return min(came for came, _ in held) + self._grace if held else None

    def _release(self, last: Any, held: Sequence[Any], now: float) -> Advance:
        """Let go of what has waited for long enough, and of all that is earlier."""
        over = [one["at"] for came, one in held if came + self._grace <= now]
        if len(held) > MOST_ITEMS:
            over.append(min(one["at"] for _, one in held))
        until = max(over, default=-math.inf)
        left = [(came, one) for came, one in held if one["at"] > until]
        made: list[Item] = []
        for _, one in sorted(held, key=lambda pair: (pair[1]["at"], pair[1]["id"])):
            if one["at"] > until:
                break
            item = from_json(one)
            assert isinstance(item, Sample)
            if last is None:
                last = [item.at, item.volume]
            elif item.at > last[0]:
                made += self._rate(last, item)
                last = [item.at, item.volume]
        # as it was before anything was held, so that an agent of the former version knows it
        known = {"last": last, "held": [list(pair) for pair in left]} if left else last
        return Advance(known, made, self._deadline(left))

    def _rate(self, last: Sequence[float], item: Sample) -> list[Item]:
        change = item.volume - last[1]
        if change < 0 and item.type == "cumulative":
            return []
        return [
            replace(
                item,
                id=make_id(item.id, self.place),
                name=self._name.fill(item),
                unit=self._unit.fill(item),
                type="gauge",
                volume=change / (item.at - last[0]) * self._factor,
            )
        ]


def _last_and_held(state: Json) -> tuple[Any, list[Any]]:
    """What a rate was made of at last: time and volume; and the samples that wait, each with the
    time at which it came."""
    if isinstance(state, dict):
        return state["last"], state["held"]
    return state, []


def _check_grace(grace: Any) -> None:
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < math.inf:
        raise BadInput(f"grace must be a number of seconds, not {grace!r}")


class Aggregate(_Keyed):
    """One sample in place of many.

    By count: after each so many of a key. By time: of each window of so many seconds, by the time
    of the items, when the window and its grace are over; for what comes later, the window gives
    another sample, so that the sum of both is exact.

    :param function: ``sum``, ``mean``, ``min``, ``max``, ``count`` or ``last``.
    :param field: what is aggregated; of a sample, ``volume``.
    :param count: items.
    :param window: seconds.
    :param grace: seconds that are waited for the late.
    :param name: of the result; fields in braces.
    """

    def __init__(
        self,
        function: str = "sum",
        by: str | Sequence[str] = ("name", "resource_id"),
        field: str = "volume",
        count: int | None = None,
        window: float | None = None,
        grace: float = 5,
        name: str = "{name}",
        unit: str | None = None,
    ) -> None:
        from converge.pipeline.steps import Form

        super().__init__(by)
        if function not in FUNCTIONS:
            raise BadInput(f"there is no function {function!r}{did_you_mean(function, FUNCTIONS)}")
        _check_number("count", count, whole=True)
        _check_number("window", window)
        if (count is None) == (window is None):
            raise BadInput("it needs either count, a number of items, or window, seconds")
        _check_grace(grace)
        self._function, self._field, self._name, self._unit = function, field, Form(name), unit
        self._count, self._window, self._grace = count, window, grace

    def key(self, item: Item) -> Json:
        """The fields, and the window if there are windows."""
        key = super().key(item)
        if key is None or (self._function != "count" and self._value(item) is None):
            return None
        return key if self._window is None else [key, self._start(item)]

    def _start(self, item: Item) -> float:
        assert self._window is not None
        return math.floor(item.at / self._window) * self._window

    def _value(self, item: Item) -> Any:
        value = get_value(item, self._field)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def advance(self, state: Json, item: Item, now: float) -> Advance:
        """Add an item."""
        value = self._value(item)
        if state is None:
            state = {"first": to_json(self._shape(item)), "since": now, "n": 0, "sum": 0}
        known = dict(state)
        known["n"] += 1
        if value is not None:
            known["sum"] += value
            known["min"] = min(known.get("min", value), value)
            known["max"] = max(known.get("max", value), value)
            if item.at >= known.get("last_at", -math.inf):
                known["last"], known["last_at"] = value, item.at
        if self._count is not None:
            if known["n"] >= self._count:
                return Advance(None, [self._result(known)])
            return Advance(known)
        assert self._window is not None
        # a late item is waited for as long as the others were
        over = max(self._start(item) + self._window, known["since"]) + self._grace
        return Advance(known, deadline=over)

    def expire(self, state: Json, now: float) -> Advance:
        """The window is over."""
        return Advance(None, [self._result(state)])

    def _shape(self, item: Item) -> Sample:
        """What the result has from the first item."""
        if isinstance(item, Sample):
            return replace(item, name=self._name.fill(item), metadata={})
        resource = get_value(item, "resource_id")
        return Sample(
            item.id,
            self._name.fill(item),
            "gauge",
            "",
            0,
            None if resource is None else str(resource),
            item.at,
        )

    def _result(self, state: Json) -> Sample:
        first = from_json(state["first"])
        assert isinstance(first, Sample)
        at = first.at if self._window is None else self._start(first)
        volumes = {
            "sum": state["sum"],
            "count": state["n"],
            "mean": state["sum"] / state["n"],
            "min": state.get("min"),
            "max": state.get("max"),
            "last": state.get("last"),
        }
        counts = self._function == "count"
        return replace(
            first,
            id=make_id(first.id, self.place),
            volume=volumes[self._function],
            unit=self._unit or ("item" if counts else first.unit),
            type="delta" if first.type == "delta" else "gauge",
            at=at,
            metadata={"count": state["n"]},
        )


class _Collecting(_Keyed):
    """A step that holds items.

    :param seconds: after the first item of a key, all go on anyway.
    """

    def __init__(self, by: str | Sequence[str], count: int | None, seconds: float | None) -> None:
        super().__init__(by)
        _check_number("count", count, whole=True)
        self._count = min(count or MOST_ITEMS, MOST_ITEMS)
        self._seconds = seconds

    def _add(self, state: Json, item: Item, now: float) -> dict[str, Any]:
        held = [] if state is None else state["items"]
        return {"since": now if state is None else state["since"], "items": [*held, to_json(item)]}

    def _deadline(self, state: Json) -> float | None:
        return None if self._seconds is None else state["since"] + self._seconds


class Accumulate(_Collecting):
    """Holds items back, and lets them go on together: so many of a key, or after so many seconds.

    :param by: the fields of the key.
    :param count: items.
    :param seconds: since the first of them came.
    """

    def __init__(
        self,
        by: str | Sequence[str] = "name",
        count: int | None = None,
        seconds: float | None = None,
    ) -> None:
        _check_number("seconds", seconds)
        if count is None and seconds is None:
            raise BadInput("it needs count, a number of items, or seconds, or both")
        super().__init__(by, count, seconds)

    def advance(self, state: Json, item: Item, now: float) -> Advance:
        """Hold an item."""
        known = self._add(state, item, now)
        if len(known["items"]) >= self._count:
            return Advance(None, from_json_list(known["items"]))
        return Advance(known, deadline=self._deadline(known))

    def expire(self, state: Json, now: float) -> Advance:
        """Let those go on that are there."""
        return Advance(None, from_json_list(state["items"]))


class Trigger(_Collecting):
    """Waits until all items of a group are there, or for so long, and hands them on as one: a
    :class:`~converge.pipeline.items.Group`.

    :param by: the fields that all of a group have in common.
    :param names: patterns of names: each must be met by an item of the group.
    :param count: how many items a group has, in place of ``names``.
    :param timeout: seconds after the first item, after which the group goes on as it is; its
        ``complete`` is then false.
    """

    def __init__(
        self,
        by: str | Sequence[str],
        timeout: float,
        names: str | Sequence[str] | None = None,
        count: int | None = None,
    ) -> None:
        _check_number("timeout", timeout)
        if (names is None) == (count is None):
            raise BadInput("it needs either names, patterns of names, or count, a number of items")
        super().__init__(by, count, timeout)
        texts = [names] if isinstance(names, str) else list(names or ())
        self._names = [Patterns([text]) for text in texts]

    def key(self, item: Item) -> Json:
        """The fields; None if no group waits for an item of that name."""
        if isinstance(item, Group):
            return None
        if self._names and not any(one.matches(item.name) for one in self._names):
            return None
        return super().key(item)

    def advance(self, state: Json, item: Item, now: float) -> Advance:
        """Add an item to its group."""
        known = self._add(state, item, now)
        if self._names:
            there = [one["name"] for one in known["items"]]
            over = all(any(map(one.matches, there)) for one in self._names)
        else:
            over = len(known["items"]) >= self._count
        if over or len(known["items"]) >= MOST_ITEMS:
            return Advance(None, [self._group(known, complete=over)])
        return Advance(known, deadline=self._deadline(known))

    def expire(self, state: Json, now: float) -> Advance:
        """Hand the group on as it is."""
        return Advance(None, [self._group(state, complete=False)])

    def _group(self, state: Json, *, complete: bool) -> Group:
        items = [one for one in from_json_list(state["items"]) if isinstance(one, Event | Sample)]
        key = "/".join(str(get_value(items[0], name)) for name in self._by)
        at = max(one.at for one in items)
        made = make_id(items[0].id, self.place)
        return Group(made, self.place, key, at, tuple(items), complete)
