"""The pipeline file: sources choose, sinks handle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converge.bus.source import LARGEST
from converge.errors import CircularDependency, PipelineError, did_you_mean
from converge.graph import Graph
from converge.pipeline.events import EventDefinitions
from converge.pipeline.items import Event, Item, Sample
from converge.pipeline.meters import MeterDefinitions
from converge.pipeline.notification import Limits, Notification, Refused
from converge.pipeline.patterns import Patterns
from converge.pipeline.publishers import Publisher
from converge.pipeline.reading import Log, Place, load
from converge.pipeline.stages import Handover, Stage, make_stage
from converge.pipeline.steps import StatefulStep

_KEYS = ("sources", "sinks", "event_definitions", "meters", "limits", "drop_unmatched_events")
_LIMITS = ("size", "depth", "ahead", "age")


@dataclass(frozen=True, slots=True)
class Source:
    """What chooses items for sinks.

    :ivar kind: ``events`` or ``meters``.
    :ivar patterns: of event types, or of names of meters.
    """

    name: str
    kind: str
    patterns: Patterns
    sinks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a pipeline sends what it selected.

    :ivar stages: its steps, then its publishers.
    :ivar attempts: how often a stage is tried before a delivery is a dead letter.
    :ivar wait: seconds before the second attempt; doubled each time.
    """

    name: str
    stages: tuple[Stage, ...]
    attempts: int = 3
    wait: float = 1.0

    @property
    def hands_to(self) -> list[str]:
        """The names of the sinks that it hands items to."""
        return [one.work.sink for one in self.stages if isinstance(one.work, Handover)]


@dataclass(frozen=True, slots=True)
class Made:
    """What the definitions make of a notification.

    :ivar problems: what is wrong with what they do not make.
    """

    event: Event | None
    samples: tuple[Sample, ...]
    problems: tuple[Refused, ...]


class Pipeline:
    """Definitions, sources and sinks. It has no state, and may be used by several threads.

    :ivar sinks: by name, each before those that it hands items to.
    :ivar notes: what is no mistake, but should be known: such as a publisher that is not here.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        sinks: Mapping[str, Sink],
        events: EventDefinitions,
        meters: MeterDefinitions,
        limits: Limits,
        notes: Iterable[str] = (),
    ) -> None:
        self.sources = tuple(sources)
        self.sinks = dict(sinks)
        self.events = events
        self.meters = meters
        self.limits = limits
        self.notes = tuple(notes)
        self._by_sink = {
            name: [one for one in self.sources if name in one.sinks] for name in self.sinks
        }

    @classmethod
    def load(
        cls,
        *files: str | os.PathLike[str] | Mapping[str, Any],
        event_definitions: str | os.PathLike[str] | list[Any] | None = None,
        meters: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """Read pipeline files; several are taken together.

        :param files: paths; or texts with several lines, or mappings, as a file has them.
        :param event_definitions: a file of event definitions, before those that the files name.
        :param meters: a file of meter definitions, before that which the files name.
        :raises PipelineError: there are mistakes. The message is the first one and how many there
            are; ``errors`` has all.
        """
        log = Log()
        reader = _Reader(log)
        for number, file in enumerate(files):
            name = f"pipeline {number + 1}" if len(files) > 1 else "pipeline"
            with log.noting():
                reader.read(load(file, name, log))
        reader.check_sources()
        made = reader.finish(event_definitions, meters)
        if log.errors:
            try:
                log.check()
            except PipelineError as error:
                error.errors = tuple(log.errors)
                raise
        return cls(*made, notes=log.notes)

    def make(self, notification: Notification) -> Made:
        """The event and the samples of a notification."""
        body = notification.as_body()
        problems: list[Refused] = []
        event = None
        try:
            event = self.events.make(notification, body)
        except Refused as refused:
            problems.append(refused)
        samples, more = self.meters.make(notification, body)
        return Made(event, tuple(samples), (*problems, *more))

    def select(self, made: Made) -> dict[str, list[Item]]:
        """What goes to which sink. What several sources select for one sink, it gets once."""
        chosen: dict[str, list[Item]] = {}
        for name, sources in self._by_sink.items():
            items: list[Item] = []
            if made.event is not None and any(
                one.kind == "events" and one.patterns.matches(made.event.name) for one in sources
            ):
                items.append(made.event)
            items += [
                sample
                for sample in made.samples
                if any(
                    one.kind == "meters" and one.patterns.matches(sample.name) for one in sources
                )
            ]
            if items:
                chosen[name] = items
        return chosen

    def close(self) -> None:
        """Free what publishers hold."""
        for sink in self.sinks.values():
            for stage in sink.stages:
                if isinstance(stage.work, Publisher):
                    stage.work.close()


class _Reader:
    """Reads files, and puts together what they say."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._sources: dict[str, tuple[Source, Place]] = {}
        self._sinks: dict[str, tuple[Sink, Place]] = {}
        # files whose list of sources is empty
        self._empty: list[Place] = []
        self._events: list[Any] = []
        self._meters: list[Any] = []
        self._limits = Limits()
        self._drop = False

    def read(self, whole: Place) -> None:
        """Read one file."""
        if not whole.check_keys(_KEYS, ("sources", "sinks")):
            return
        for place in whole.items("sinks"):
            self._read_sink(place)
        for place in whole.items("sources"):
            self._read_source(place)
        if whole.value["sources"] == []:
            self._empty.append(whole)
        for key, found in (("event_definitions", self._events), ("meters", self._meters)):
            for text in whole.texts(key):
                found.append(_beside(whole, text))
        if whole.has("limits"):
            self._read_limits(whole.child("limits"))
        if whole.has("drop_unmatched_events"):
            self._drop = bool(whole.value["drop_unmatched_events"])

    def check_sources(self) -> None:
        """Refuse files of which none has a source."""
        for place in self._empty if not self._sources else ():
            place.child("sources").refuse(
                "it selects nothing: there is no source, with a name, events or meters, and sinks"
            )

    def _read_limits(self, place: Place) -> None:
        if not place.check_keys(_LIMITS):
            return
        given = {}
        for key, value in place.value.items():
            most = {"size": LARGEST, "depth": 200}.get(key, 1e12)
            whole = key in {"size", "depth"}
            if (
                isinstance(value, bool)
                or not isinstance(value, int if whole else int | float)
                or not 0 < value <= most
            ):
                kind = "whole number" if whole else "number of seconds"
                place.child(key).refuse(f"a {kind} above 0, at most {most:,.0f}, is expected")
            elif key in _LIMITS:
                given[key] = value
        self._limits = Limits(**given)

    def _read_sink(self, place: Place) -> None:
        known = ("name", "steps", "publishers", "attempts", "wait", "transformers")
        if not place.check_keys(known, ("name", "publishers")):
            return
        name = place.text("name")
        if name is None:
            return
        if name in self._sinks:
            place.refuse(f"there is another sink {name!r}; each needs a name of its own")
        if len(name) > 255:
            place.refuse("the name of a sink has 255 characters at most")
        if place.value.get("transformers"):
            place.child("transformers").refuse("Ceilometer removed transformers; use steps")
        taken: set[str] = set()
        stages = [make_stage(one, taken, publisher=False) for one in place.items("steps")]
        ends = [make_stage(one, taken, publisher=True) for one in place.items("publishers")]
        if not place.items("publishers"):
            place.child("publishers").refuse("a sink needs a publisher, such as log")
        attempts, wait = place.value.get("attempts", 3), place.value.get("wait", 1.0)
        if type(attempts) is not int or not 1 <= attempts <= 1000:
            place.child("attempts").refuse("a whole number from 1 to 1000 is expected")
            attempts = 3
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= 86_400:
            place.child("wait").refuse("a number of seconds from 0 to 86,400 is expected")
            wait = 1.0
        made = tuple(one for one in [*stages, *ends] if one is not None)
        for stage in made:
            if isinstance(stage.work, StatefulStep):
                stage.work.begin(name, stage.name)
        self._sinks[name] = (Sink(name, made, attempts, wait), place)

    def _read_source(self, place: Place) -> None:
        known = ("name", "events", "meters", "sinks", "interval", "resources", "discovery")
        if not place.check_keys(known, ("name", "sinks")):
            return
        name = place.text("name")
        if name is None:
            return
        if name in self._sources:
            place.refuse(f"there is another source {name!r}; each needs a name of its own")
        for key in ("interval", "resources", "discovery"):
            if place.has(key):
                place.child(key).note("polling is not done here; it is ignored")
        kinds = [key for key in ("events", "meters") if place.has(key)]
        if len(kinds) != 1:
            place.refuse("it selects nothing; it needs either events or meters, a list of patterns")
            return
        patterns = Patterns(place.texts(kinds[0]))
        if patterns.is_empty:
            place.child(kinds[0]).refuse("it selects nothing: no name can match")
        sinks = place.texts("sinks")
        self._sources[name] = (Source(name, kinds[0], patterns, tuple(sinks)), place)

    def finish(
        self, events: Any, meters: Any
    ) -> tuple[list[Source], dict[str, Sink], EventDefinitions, MeterDefinitions, Limits]:
        """Check what only the whole shows."""
        names = list(self._sinks)
        fed: set[str] = set()
        feeding = [
            *((source.sinks, place.child("sinks")) for source, place in self._sources.values()),
            *((sink.hands_to, place.child("publishers")) for sink, place in self._sinks.values()),
        ]
        for wanted, place in feeding:
            fed.update(wanted)
            for name in wanted:
                if name not in self._sinks:
                    place.refuse(f"there is no sink {name!r}{did_you_mean(name, names)}")
        for sink, place in self._sinks.values():
            if sink.name not in fed:
                place.note(f"nothing comes to sink {sink.name!r}: no source names it")
        return (
            [source for source, _ in self._sources.values()],
            self._ordered(),
            self._load_events(events),
            self._load_meters(meters),
            self._limits,
        )

    def _ordered(self) -> dict[str, Sink]:
        # who is handed something comes after who hands it
        givers: dict[str, list[str]] = {name: [] for name in self._sinks}
        for name, (sink, _) in self._sinks.items():
            for other in sink.hands_to:
                if other in givers:
                    givers[other].append(name)
        try:
            order = list(Graph.of(givers))
        except CircularDependency as error:
            place = self._sinks[str(error.cycle[0])][1]
            shown = " -> ".join([*map(str, reversed(error.cycle)), str(error.cycle[-1])])
            place.child("publishers").refuse(f"the sinks hand items around in a loop: {shown}")
            order = list(self._sinks)
        return {name: self._sinks[name][0] for name in order}

    def _load_events(self, given: Any) -> EventDefinitions:
        files = [*([given] if given is not None else []), *self._events]
        found = EventDefinitions(drop_unmatched=self._drop)
        for one in files:
            with self._log.noting():
                found = found + EventDefinitions.load(one, log=self._log)
        return found

    def _load_meters(self, given: Any) -> MeterDefinitions:
        files = [*([given] if given is not None else []), *self._meters]
        found = MeterDefinitions()
        for one in files:
            with self._log.noting():
                found = found + MeterDefinitions.load(one, log=self._log, first=len(found))
        return found


def _beside(whole: Place, text: str) -> str:
    """A file that a file names, from the folder of that one."""
    return str(Path(whole.source).parent / text)
