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
from typing import TYPE_CHECKING

from converge.cli import EXIT_COMPLETE
from converge.cli.output import write_json
from converge.cli.pipeline import load_pipeline
from converge.errors import BadInput

if TYPE_CHECKING:
    from converge.agent.agent import Agent, Counts
    from converge.bus.source import Source

EXCHANGE = "openstack"
TOPIC = "notifications"


def agent(arguments: Namespace) -> int:
    """Run an agent until a signal comes, or its file ends."""
    import converge
    from converge.agent.agent import Agent
    from converge.agent.gathering import Batching
    from converge.cli.database import database_url
    from converge.model import DEFAULT_URL

    pipeline = load_pipeline(arguments)
    open_source = _source(arguments)
    url = database_url(arguments)
    # the bus of the agent is not that of hints
    with converge.connect(url or DEFAULT_URL, create_schema=url is None) as store:
        agent = Agent(
            store,
            pipeline,
            open_source,
            Batching(arguments.batch_size, arguments.batch_timeout),
        )
        try:
            with _signals(agent):
                agent.run()
        finally:
            pipeline.close()
    _report(agent.counts, arguments)
    return EXIT_COMPLETE


def _source(arguments: Namespace) -> Callable[[], Source]:
    """What connects to the bus.

    :raises BadInput: it is none that an agent can receive from.
    """
    text = arguments.bus or os.environ.get("CONVERGE_BUS") or ""
    if text.startswith("file:"):
        from converge.bus.source import FileSource

        path = text.removeprefix("file:")
        # a mistake is told before anything else is done
        FileSource(path).close()
        return lambda: FileSource(path)
    if not text:
        raise BadInput("an agent needs --bus URL: rabbit://USER:PASSWORD@HOST:5672/ or file:PATH")
    from converge.bus.urls import read_bus_url

    url = read_bus_url(text)
    if url.kind != "rabbit":
        raise BadInput(
            f"an agent cannot receive from {url.shown}; it can from "
            "rabbit://USER:PASSWORD@HOST:5672/ and file:PATH"
        )
    from converge.bus.rabbit import Address, RabbitSource

    addresses = [
        Address(*_topic(topic), priority)
        for topic in arguments.topic or [TOPIC]
        for priority in arguments.priority or ["info"]
    ]
    prefetch = arguments.prefetch or min(2 * arguments.batch_size, 65_535)
    # a mistake is told before anything else is done
    RabbitSource(url, addresses, prefetch)
    return lambda: RabbitSource(url, addresses, prefetch)


def _topic(text: str) -> tuple[str, str]:
    exchange, slash, topic = text.rpartition("/")
    if not topic or (slash and not exchange):
        raise BadInput(f"a topic is TOPIC or EXCHANGE/TOPIC, not {text!r}")
    return exchange or EXCHANGE, topic


@contextmanager
def _signals(agent: Agent) -> Iterator[None]:
    """Stop at Ctrl-C and SIGTERM, when what is in hand is done; a second one is as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:
        agent.stop()
        for one, handler in before.items():
            signal.signal(one, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
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
