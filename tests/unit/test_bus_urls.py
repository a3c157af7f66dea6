"""The URLs of buses: what they can be wrong in, and that no secret is shown."""

from __future__ import annotations

import pytest

from converge.bus.urls import read_bus_url, uses_oslo
from converge.errors import BadInput
from converge.hiding import hide


def test_a_rabbit_may_have_several_hosts_and_options() -> None:
    url = read_bus_url(
        "rabbit://me:geheimnis1@one:5672,me:geheimnis2@[::1]:5673/vhost"
        "?rabbit_quorum_queue=false&topic=mine"
    )
    assert (url.kind, url.topic) == ("rabbit", "mine")
    assert url.options == {"rabbit_quorum_queue": "false"}
    assert url.text == "rabbit://me:geheimnis1@one:5672,me:geheimnis2@[::1]:5673/vhost"
    assert "geheimnis" not in url.shown
    assert url.shown.startswith("rabbit://me:***@one:5672,me:***@[::1]:5673/vhost?")
    assert hide("cannot log in with geheimnis2") == "cannot log in with ***"


@pytest.mark.parametrize("text", ["memory://", "database://", "fake://", "kafka://broker:9092/"])
def test_others_need_little(text: str) -> None:
    assert read_bus_url(text).shown == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not the URL of a bus; one looks like rabbit://"),
        ("rabbit", "'rabbit' is not the URL of a bus"),
        ("redis://host", "there is no bus 'redis'; known: database, fake, kafka, memory, rabbit"),
        ("rabit://host", "did you mean 'rabbit'"),
        ("amqp://host", "a bus of 'amqp' is named rabbit://"),
        ("database://host", "nothing may follow database://"),
        ("memory:///x", "nothing may follow memory://"),
        ("rabbit://", "a bus of 'rabbit' needs a host"),
        ("rabbit://user@/", "a bus of 'rabbit' needs a host"),
        ("kafka://", "a bus of 'kafka' needs a host"),
        ("rabbit://host:port/", "a port is a number"),
        ("rabbit://host:123456/", "a port is a number"),
        ("rabbit://a@b@host/", "write % @ /"),
        ("rabbit://user:pass/word@host/", "cannot be read as the URL of a bus"),
        ("rabbit://host/#x", "cannot be read as the URL of a bus"),
        ("rabbit://host/?topic=a b", "the topic of a bus has letters"),
        ("rabbit://host/?topic=", "the topic of a bus has letters"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        read_bus_url(text)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "rabbit://me:Geheim55@host:port/",
        "rabbit://me:Geheim55@a@host/",
        "rabbit://me:Geheim/55@host/",
        "rabit://me:Geheim55@host/",
        "amqp://me:Geheim55@host/",
        "rabbit:me:Geheim55@host",
    ],
)
def test_no_message_has_a_secret(text: str) -> None:
    with pytest.raises(BadInput) as raised:
        read_bus_url(text)
    assert "Geheim" not in str(raised.value)


def test_only_some_need_oslo_messaging() -> None:
    assert [uses_oslo(one) for one in ("memory://", "database://", "rabbit://h", "FAKE://")] == [
        False,
        False,
        True,
        True,
    ]
