"""The command ``agent``: takes notifications of a bus through a pipeline."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from converge.cli import EXIT_COMPLETE
from converge.cli.output import write_json
from converge.errors import BadInput

if TYPE_CHECKING:
    from converge.agent.agent import Agent
    from converge.agent.counts import Counts
    from converge.bus.post import Post
    from converge.bus.source import Source
    from converge.cli.running import Outages
    from converge.cli.service import Shell
    from converge.group.group import Settings
    from converge.pipeline import Pipeline
    from converge.service.agent_metrics import AgentMetrics
    from converge.store import Store

EXCHANGE = "openstack"
TOPIC = "notifications"


def agent(arguments: Namespace) -> int:
    """Run an agent, or several in processes, until a signal comes, or the file ends."""
    from converge.cli.service import serve
    from converge.service.settings import SETTINGS_AGENT, SETTINGS_SHARED

    settings = (*SETTINGS_SHARED, *SETTINGS_AGENT)
    return serve(
        arguments,
        settings,
        lambda shell: _run(arguments, shell),
        _metrics,
        lambda: _check_processes(arguments),
    )


def _check_processes(arguments: Namespace) -> None:
    """:raises BadInput: there are several, and something of which each would have its own."""
    for one in _buses(arguments):
        if arguments.processes > 1 and one.startswith(("file:", "fake:")):
            raise BadInput(f"{_shown(one)} can be read by one process only; leave out --processes")


def _metrics() -> type[AgentMetrics]:
    from converge.service.agent_metrics import AgentMetrics

    return AgentMetrics


def _run(arguments: Namespace, shell: Shell[AgentMetrics]) -> int:
    from converge.agent.agent import Agent
    from converge.agent.gathering import Batching
    from converge.agent.sharing import Sharing
    from converge.cli.running import Outages, log_to

    pipeline = _pipeline(arguments)
    open_source = _source(arguments)
    settings = _group(arguments)
    outages = Outages(shell.reporter)
    with log_to(outages), _store(arguments, outages) as store:
        agent = Agent(
            store,
            pipeline,
            open_source,
            Batching(arguments.batch_size, arguments.batch_timeout),
            shell.metrics,
            None
            if settings is None
            else partial(
                Sharing,
                store,
                pipeline,
                settings,
                _post(arguments),
                most_open=arguments.most_open,
            ),
            arguments.keep_events,
        )
        if shell.metrics is not None:
            shell.metrics.watch(agent, store)
        try:
            with _signals(agent) as came:
                if not _is_file(arguments):
                    shell.reporter.note("an agent is running; Ctrl-C stops it")
                agent.run()
        finally:
            pipeline.close()
    _report(agent.counts, arguments)
    return 128 + came[0] if came else EXIT_COMPLETE


def _pipeline(arguments: Namespace) -> Pipeline:
    """:raises BadInput: none is named, or there are mistakes in it."""
    from converge.pipeline import Pipeline

    if not arguments.pipeline:
        raise BadInput("an agent needs --pipeline FILE")
    definitions = {name: getattr(arguments, name) for name in ("event_definitions", "meters")}
    return Pipeline.load(*arguments.pipeline, **definitions)


@contextmanager
def _store(arguments: Namespace, outages: Outages) -> Iterator[Store]:
    """The store, as soon as its server can be reached.

    The bus of the agent is not that of hints.
    """
    import converge
    from converge.cli.database import database_url
    from converge.model import DEFAULT_URL
    from converge.sql.faults import Unreachable

    url = database_url(arguments)

    def connect() -> Store:
        return converge.connect(url or DEFAULT_URL, create_schema=url is None)

    # a service may be started before its database; who takes a file wants to know
    with connect() if _is_file(arguments) else outages.wait_out(connect, kind=Unreachable) as store:
        yield store


def _buses(arguments: Namespace) -> list[str]:
    """:raises BadInput: none is named, or one twice."""
    named = [str(one) for one in arguments.source or [os.environ.get("CONVERGE_BUS")] if one]
    if not named:
        raise BadInput(
            "an agent needs --bus URL: rabbit://USER:PASSWORD@HOST:5672/, file:PATH or fake://"
        )
    for number, one in enumerate(named):
        if one in named[:number]:
            raise BadInput(f"the bus {_shown(one)} is named twice")
    return named


def _shown(text: str) -> str:
    if text.startswith("file:"):
        return text
    from converge.bus.urls import read_bus_url

    return read_bus_url(text).shown


def _is_file(arguments: Namespace) -> bool:
    """Whether all that comes is in files, so that it ends."""
    return all(one.startswith("file:") for one in _buses(arguments))


def _source(arguments: Namespace) -> Callable[[], Source]:
    """What connects to the bus, or to all of several.

    :raises BadInput: there is none that an agent can receive from.
    """
    opening = [(_shown(text), _one_source(arguments, text)) for text in _buses(arguments)]
    if len(opening) == 1:
        return opening[0][1]
    from converge.bus.several import SeveralSources

    return lambda: SeveralSources(opening)


def _one_source(arguments: Namespace, text: str) -> Callable[[], Source]:
    if text.startswith("file:"):
        from converge.bus.source import FileSource

        path = text.removeprefix("file:")
        # a mistake is told before anything else is done
        FileSource(path).close()
        return lambda: FileSource(path)
    from converge.bus.source import Address
    from converge.bus.urls import read_bus_url

    url = read_bus_url(text)
    addresses = [
        Address(*_topic(topic), priority)
        for topic in dict.fromkeys(arguments.topic or [TOPIC])
        for priority in dict.fromkeys(arguments.priority or ["info"])
    ]
    if url.kind == "fake":
        from converge.bus.fake import FakeSource
        from converge.bus.threads import choose_threads

        choose_threads()
        FakeSource(url, addresses)
        return lambda: FakeSource(url, addresses)
    if url.kind != "rabbit":
        raise BadInput(
            f"an agent cannot receive from {url.shown}; it can from "
            "rabbit://USER:PASSWORD@HOST:5672/, file:PATH and fake://"
        )
    from converge.bus.rabbit import RabbitSource

    prefetch = arguments.prefetch or min(2 * arguments.batch_size, 65_535)

    def connect() -> RabbitSource:
        source = RabbitSource(url, addresses, prefetch)
        source.connect()
        return source

    RabbitSource(url, addresses, prefetch)
    return connect


def _group(arguments: Namespace) -> Settings | None:
    """The group to join, if there is one.

    :raises BadInput: something of it is missing or wrong.
    """
    from converge.group.group import Settings
    from converge.group.signing import Secrets

    if arguments.group is None:
        for name in ("secret_file", "partitions", "key"):
            if getattr(arguments, name) is not None:
                raise BadInput(f"--{name.replace('_', '-')} is for agents of a --group")
        return None
    if arguments.secret_file is not None:
        try:
            text = Path(arguments.secret_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"the secret in {arguments.secret_file} cannot be read: {error}"
            ) from None
    else:
        text = os.environ.get("CONVERGE_GROUP_SECRET", "")
    if not text.strip():
        raise BadInput(
            "an agent of a group needs the group's secret: --secret-file FILE, or "
            "CONVERGE_GROUP_SECRET, with a text of at least 16 characters"
        )
    return Settings(arguments.group, Secrets.read(text), arguments.partitions, arguments.key)


def _post(arguments: Namespace) -> Callable[[], Post] | None:
    """What connects to the queues of partitions."""
    text = next((one for one in _buses(arguments) if one.startswith("rabbit:")), None)
    if text is None:
        return None
    from converge.bus.rabbit_post import RabbitPost
    from converge.bus.urls import read_bus_url

    return partial(RabbitPost, read_bus_url(text))


def _topic(text: str) -> tuple[str, str]:
    exchange, slash, topic = text.rpartition("/")
    if not topic or (slash and not exchange):
        raise BadInput(f"a topic is TOPIC or EXCHANGE/TOPIC, not {text!r}")
    return exchange or EXCHANGE, topic


@contextmanager
def _signals(agent: Agent) -> Iterator[list[int]]:
    """Stop at Ctrl-C and SIGTERM, when what is in hand is done; a second one is as usual.

    :returns: the signal that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:
        came.append(number)
        agent.stop()
        for one, handler in before.items():
            signal.signal(one, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(counts: Counts, arguments: Namespace) -> None:
    if arguments.json:
        write_json(asdict(counts), sys.stdout)
        return
    print(
        f"received {counts.received} messages in {counts.batches} batches: "
        f"{counts.recorded} new, {counts.duplicates} known, {counts.dead_letters} dead letters"
    )
    for sink, number in sorted(counts.delivered.items()):
        print(f"sink {sink}: {number} delivered in {counts.seconds.get(sink, 0.0):.1f} s")
    group = counts.group
    if group is not None:
        print(
            f"group {arguments.group}: {group.partitions} partitions, {group.hints} messages, "
            f"{sum(group.refused.values())} refused"
        )
