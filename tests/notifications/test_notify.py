"""The publisher ``notify``: items as notifications on a bus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converge import Store
from converge.bus.carrier import CarrierError
from converge.bus.threads import choose_threads
from converge.errors import BadInput
from converge.pipeline import Message, parse, sweep
from converge.pipeline.remote import NotifyPublisher
from converge.testing import FakeClock
from tests.notifications.samples import message, volume
from tests.notifications.world import World, handle, pipeline
from tests.waiting import until

choose_threads()

URL = "fake://"


@pytest.fixture
def heard() -> Iterator[list[dict[str, Any]]]:
    """What comes to the queue, in the form that a listener of oslo.messaging hands over."""
    import oslo_messaging
    from oslo_config import cfg

    found: list[dict[str, Any]] = []

    class Endpoint:
        def info(self, messages: list[dict[str, Any]]) -> None:
            found.extend(messages)

    transport = oslo_messaging.get_notification_transport(cfg.CONF, url=URL)
    listener = oslo_messaging.get_batch_notification_listener(
        transport,
        [oslo_messaging.Target(topic="made")],
        [Endpoint()],
        executor="threading",
        batch_size=10,
        batch_timeout=0.05,
    )
    listener.start()
    yield found
    listener.stop()
    listener.wait()
    transport.cleanup()


def test_items_are_sent_as_notifications_with_their_ids(
    store: Store, world: World, heard: list[dict[str, Any]]
) -> None:
    given = pipeline(
        {"rename": {"to": "made.{name}"}},
        publishers=[{"notify": {"url": URL, "topic": "made"}}],
    )
    assert handle(store, given, [message(volume(1)), message(volume(2))]).delivered == {"sink": 2}
    until(lambda: len(heard) == 2)
    given.close()
    one = heard[0]
    assert one["event_type"] == "made.volume.create.end"
    assert one["payload"]["id"] == one["metadata"]["message_id"] == "m-1"
    # what was sent can be handled like any other
    again = parse(Message(one), time.time(), given.limits)
    assert again.message_id == "m-1"


def test_a_broker_that_takes_nothing_is_a_failure(
    store: Store, clock: FakeClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pipeline(publishers=[{"notify": {"url": URL}}], wait=1)
    (stage,) = given.sinks["sink"].stages
    publisher = stage.work
    assert isinstance(publisher, NotifyPublisher)
    sent: list[str] = []

    def refuse(*arguments: Any) -> None:
        raise CarrierError("no route to host")

    monkeypatch.setattr(publisher._notifier, "send", refuse)
    assert handle(store, given, [message(volume(1))]).retried == {"sink": 1}
    monkeypatch.setattr(publisher._notifier, "send", lambda *given: sent.append(given[0]))
    clock.advance(2)
    assert sweep(store, given).delivered == {"sink": 1}
    assert sent == ["m-1"]


def test_a_bus_that_carries_no_notifications_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"notifications cannot be sent to database://; use rabbit"):
        NotifyPublisher("database://")
    with pytest.raises(BadInput, match="there is no bus 'rabit'; did you mean 'rabbit'"):
        NotifyPublisher("rabit://host")
