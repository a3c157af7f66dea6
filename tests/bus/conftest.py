"""What the tests of buses share: brokers."""

from __future__ import annotations

import pytest

from tests.backends import Backend
from tests.brokers import OwnRabbitMQ


@pytest.fixture
def own(_databases: dict[str, Backend]) -> OwnRabbitMQ:
    """A server that the test may stop."""
    server = _databases["own-rabbitmq"]
    assert isinstance(server, OwnRabbitMQ)
    return server
