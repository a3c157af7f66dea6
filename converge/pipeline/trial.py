"""What a pipeline would make of messages, without a database, and with nothing written: for
``converge pipeline try``, and for the tests of those who write pipeline files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from converge.canonical import dump
from converge.pipeline.items import Item
from converge.pipeline.notification import Message, Notification, Refused, parse
from converge.pipeline.pipeline import Made, Pipeline, Sink
from converge.pipeline.stages import Handover, Stage
from converge.pipeline.steps import Advance, StatefulStep, Step, listed
from converge.reasons import describe


@dataclass(slots=True)
class Tried:
    """What became of a message, or of what steps held at the end.

    :ivar refused: why it is no notification.
    :ivar sinks: what came to the publishers of each sink.
    :ivar errors: where a stage failed, and why, by sink.
    :ivar skipped: stages that were not called, as they may have effects.
    """

    notification: Notification | None = None
    made: Made | None = None
    refused: Refused | None = None
    sinks: dict[str, list[Item]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)


class Trial:
    """A pipeline that is tried. What steps remember is kept here.

    :param now: the time that timestamps are compared with: seconds since 1970.
    :param call: whether steps that are not ``pure`` are called, too. Publishers never are.
    """

    def __init__(self, pipeline: Pipeline, now: float, *, call: bool = False) -> None:
        self._pipeline = pipeline
        self._now = now
        self._call = call
        self._states: dict[tuple[str, str, str], Advance] = {}

    def take(self, message: Message) -> Tried:
        """What would become of a message."""
        try:
            notification = parse(message, self._now, self._pipeline.limits)
        except Refused as refused:
            return Tried(refused=refused)
        made = self._pipeline.make(notification)
        tried = Tried(notification, made)
        chosen = self._pipeline.select(made)
        for name, sink in self._pipeline.sinks.items():
            if name in chosen:
                self._run(sink, 0, chosen[name], tried, chosen)
        return tried

    def end(self) -> Tried:
        """What steps would hand on of what they hold, when its time has come."""
        tried = Tried()
        handed: dict[str, list[Item]] = {}
        for name, sink in self._pipeline.sinks.items():
            if name in handed:
                self._run(sink, 0, handed[name], tried, handed)
            for index, stage in enumerate(sink.stages):
                held = list(self._expire(sink, stage))
                if held:
                    self._run(sink, index + 1, held, tried, handed)
        return tried

    def _run(
        self, sink: Sink, first: int, items: list[Item], tried: Tried, handed: dict[str, list[Item]]
    ) -> None:
        for stage in sink.stages[first:]:
            if isinstance(stage.work, Handover):
                handed.setdefault(stage.work.sink, []).extend(items)
                continue
            try:
                items = self._pass(sink, stage, items, tried)
            except Exception as error:
                tried.errors[sink.name] = f"{stage.name}: {describe(error, place=False)}"
                return
        if items:
            tried.sinks.setdefault(sink.name, []).extend(items)

    def _pass(self, sink: Sink, stage: Stage, items: list[Item], tried: Tried) -> list[Item]:
        step = stage.work
        if isinstance(step, StatefulStep):
            return [made for item in items for made in self._remember(sink, stage, step, item)]
        if isinstance(step, Step):
            if not (step.pure or self._call):
                tried.skipped.add(f"{sink.name}/{stage.name}")
                return items
            return [made for item in items for made in listed(step.apply(item))]
        return items

    def _remember(self, sink: Sink, stage: Stage, step: StatefulStep, item: Item) -> list[Item]:
        key = step.key(item)
        if key is None:
            return [item]
        place = (sink.name, stage.name, dump(key))
        before = self._states.get(place)
        moved = step.advance(before and before.state, item, self._now)
        self._states[place] = moved
        return list(moved.made)

    def _expire(self, sink: Sink, stage: Stage) -> Iterator[Item]:
        if isinstance(stage.work, StatefulStep):
            for place, known in self._states.items():
                if place[:2] == (sink.name, stage.name) and known.deadline is not None:
                    yield from stage.work.expire(known.state, known.deadline).made
