"""The queues of partitions in RabbitMQ: one receives from each at a time, and a change touches no
other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from converge.bus.post import QUEUE, REDELIVERED
from converge.bus.rabbit_post import RabbitPost
from converge.bus.source import Delivery
from converge.bus.urls import read_bus_url
from tests.backends import Backend, RabbitMQ

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def make(_databases: dict[str, Backend]) -> Iterator[Callable[[], RabbitPost]]:
    server = _databases["rabbitmq"]
    assert isinstance(server, RabbitMQ)
    url = server.empty()
    made: list[RabbitPost] = []

    def post() -> RabbitPost:
        made.append(RabbitPost(read_bus_url(url.partition("?")[0])))
        return made[-1]

    yield post
    for one in made:
        one.close()
    last = RabbitPost(read_bus_url(url.partition("?")[0]))
    last.remove(["converge.test.a", "converge.test.b"])
    last.close()
    server.discard(url)


A, B = "converge.test.a", "converge.test.b"


def bodies(post: RabbitPost, number: int) -> list[tuple[str, bytes | str, bool]]:
    found: list[Delivery] = []
    for _ in range(50):
        if len(found) == number:
            break
        one = post.receive(0.2)
        found += [one] if one is not None else []
    post.acknowledge(found)
    return [(one.headers[QUEUE], one.body, one.headers[REDELIVERED]) for one in found]


def test_one_at_a_time_receives_from_each_queue(make: Callable[[], RabbitPost]) -> None:
    first, second, sender = make(), make(), make()
    first.listen([A, B])
    tags = dict(first.tags)
    second.listen([A])
    sender.send([(A, b"1"), (A, b"2"), (B, b"3")])
    assert sorted(bodies(first, 3)) == [(A, b"1", False), (A, b"2", False), (B, b"3", False)]
    # the first gives one back: the other one of its consumers is as it was
    first.listen([B])
    assert first.tags == {B: tags[B]}
    sender.send([(A, b"4"), (B, b"5")])
    assert bodies(second, 1) == [(A, b"4", False)]
    assert bodies(first, 1) == [(B, b"5", False)]
    # what is not acknowledged comes again, and says so
    sender.send([(B, b"6")])
    assert first.receive(5.0) is not None
    first.close()
    second.listen([A, B])
    assert bodies(second, 1) == [(B, b"6", True)]
    second.remove([A])
    assert second.tags.keys() == {B}
