"""oslo.messaging as a carrier, with its fake driver, and what is imported for it."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from secrets import token_hex

import pytest

import converge
from converge import stack as stack_module
from converge.bus.hint import ANY, Hint
from converge.bus.oslo import OsloCarrier
from converge.bus.shared import SharedBus
from converge.bus.threads import choose_threads
from converge.bus.urls import read_bus_url
from converge.errors import BadInput
from tests.bus.ether import GARBAGE
from tests.handlers import Quick
from tests.templates import template
from tests.waiting import WAIT, until

# before anything imports oslo.messaging
choose_threads()


def fake_bus(topic: str) -> SharedBus:
    """A bus of another process."""
    url = read_bus_url(f"fake://?topic={topic}")
    return SharedBus(lambda: OsloCarrier(url))


@pytest.fixture
def topic() -> str:
    """A topic of the test's own: all transports of a process have the same exchanges."""
    return f"t{token_hex(4)}"


@pytest.fixture
def buses(topic: str) -> Iterator[list[SharedBus]]:
    """Three processes."""
    made = [fake_bus(topic) for _ in range(3)]
    yield made
    for bus in made:
        bus.close()


def test_all_processes_hear_of_a_commit(buses: list[SharedBus]) -> None:
    calls: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number, bus in enumerate(buses):
        bus.add_listener(lambda hint, number=number: calls.put(number))  # type: ignore[misc]
    # each looks as soon as it receives
    assert sorted(calls.get(timeout=WAIT) for _ in buses) == [0, 1, 2]
    buses[0].committed(Hint(ready=ANY))
    assert sorted(calls.get(timeout=WAIT) for _ in buses) == [0, 1, 2]


def test_a_stack_converges_by_hints_alone(
    topic: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "_LOOK", 3600)
    monkeypatch.setattr(stack_module, "_LOOK_CONNECTED", 3600)
    bus = f"fake://?topic={topic}"
    engines, client = (converge.connect(database_url, bus=bus) for _ in range(2))
    with engines, client, converge.Engine(engines, {"fake": Quick()}, poll=3600) as engine:
        until(lambda: engines.bus.is_connected)
        assert engine.wait_idle(WAIT)
        stack = client.create_stack("one", template({"a": {}, "b": ["a"]}))
        assert stack.wait(WAIT) == "COMPLETE"


def test_messages_of_anybody_are_ignored(topic: str, buses: list[SharedBus]) -> None:
    import oslo_messaging

    calls: queue.SimpleQueue[None] = queue.SimpleQueue()
    buses[0].add_listener(lambda hint: calls.put(None))
    calls.get(timeout=WAIT)
    from oslo_config import cfg

    transport = oslo_messaging.get_rpc_transport(cfg.CONF, url="fake://")
    target = oslo_messaging.Target(topic=topic, fanout=True)
    stranger = oslo_messaging.get_rpc_client(transport, target)
    for garbage in GARBAGE[2:6]:
        stranger.cast({}, "hint", text=garbage)
    stranger.cast({}, "hint")
    stranger.cast({}, "destroy", everything=True)
    stranger.prepare(version="7.5").cast({}, "hint", text="x")
    stranger.prepare(namespace="other").cast({}, "hint", text={"text": 1})
    assert calls.empty()
    # and what comes after them is heard
    buses[1].committed(Hint(ready=ANY))
    calls.get(timeout=WAIT)
    assert calls.empty()
    transport.cleanup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rabbit://me:Geheim7@host/?rabbit_quorum_queu=true", "did you mean 'rabbit_quorum_queue'"),
        ("rabbit://me:Geheim7@host/?colour=red", "has no option 'colour'"),
        ("rabbit://me:Geheim7@host/?rabbit_quorum_queue=perhaps", "Unexpected boolean value"),
        ("rabbit://me:Geheim7@host/?rabbit_retry_interval=soon", "soon"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_connected(text: str, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        OsloCarrier(read_bus_url(text))
    assert message in str(raised.value)
    assert "Geheim7" not in str(raised.value)


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(BadInput, match="type: pip install confluent-kafka"):
        OsloCarrier(read_bus_url("kafka://host:9092/"))


def test_a_closed_bus_leaves_no_thread(topic: str) -> None:
    before = {one for one in threading.enumerate() if one.name.startswith("converge-bus")}
    bus = fake_bus(topic)
    calls: queue.SimpleQueue[None] = queue.SimpleQueue()
    bus.add_listener(lambda hint: calls.put(None))
    calls.get(timeout=WAIT)
    bus.committed(Hint(ready=ANY))
    bus.close()
    after = {one for one in threading.enumerate() if one.name.startswith("converge-bus")}
    assert after <= before


PROGRAM = """
import sys
from converge.cli import main
assert main(sys.argv[1:]) == 0
print(*(name for name, module in sys.modules.items() if module), sep="\\n", file=sys.stderr)
"""


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("bus", "imports"), [((), False), (("--bus", "memory://"), False), (("--bus", "fake://"), True)]
)
def test_oslo_messaging_is_imported_only_for_its_buses_and_eventlet_never(
    tmp_path: object, bus: tuple[str, ...], imports: bool
) -> None:
    words = ["--db", f"sqlite:///{tmp_path}/a.db", "engine", "--until-idle", *bus]
    program = f"from converge.sql import migrate; migrate.upgrade({words[1]!r})\n{PROGRAM}"
    ran = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    loaded = set(ran.stderr.split())
    assert "converge.engine.run" in loaded
    assert ("oslo_messaging" in loaded) == imports
    assert not [name for name in loaded if name.partition(".")[0] in ("eventlet", "greenlet")]
