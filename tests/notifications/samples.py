"""Notifications as services send them, written for the tests."""

from __future__ import annotations

import json
from typing import Any

from converge.pipeline import Message

#: 2026-11-01T00:00:00Z
START = 1_793_491_200.0


def volume(number: int, **payload: Any) -> dict[str, Any]:
    """What a block storage service sends of a volume."""
    given = {
        "volume_id": f"vol-{number}",
        "size": 10 + number,
        "tenant_id": "p1",
        "user_id": "u1",
        "display_name": f"disk {number}",
        "status": "available",
        "host": "block-1@lvm#pool",
        **payload,
    }
    return body(f"m-{number}", "volume.create.end", given, publisher_id="volume.block-1")


def body(message_id: str, event_type: str, payload: Any, **more: Any) -> dict[str, Any]:
    """A notification as it is sent."""
    return {
        "message_id": message_id,
        "event_type": event_type,
        "publisher_id": "service.host",
        "priority": "INFO",
        "timestamp": "2026-11-01 00:00:00.000000",
        "payload": payload,
        **more,
    }


def message(given: dict[str, Any]) -> Message:
    """It, as bytes of a bus."""
    return Message(json.dumps(given).encode())


def server(uuid: str, flavor: dict[str, Any]) -> dict[str, Any]:
    """The versioned object of a server, with another one inside."""

    def wrap(name: str, data: dict[str, Any]) -> dict[str, Any]:
        return {
            "nova_object.name": name,
            "nova_object.namespace": "nova",
            "nova_object.version": "1.0",
            "nova_object.data": data,
        }

    inner = wrap("FlavorPayload", flavor)
    return wrap("InstancePayload", {"uuid": uuid, "flavor": inner, "tags": [inner]})


EVENT_DEFINITIONS = """\
- event_type: ['volume.*', '!volume.usage']
  traits: &volume
    resource_id:
      fields: payload.volume_id
    size:
      type: int
      fields: payload.size
    host:
      fields: publisher_id.`split(., 1, 1)`
- event_type: volume.create.end
  traits:
    <<: *volume
    created_at:
      type: datetime
      fields: payload.created_at
    pool:
      fields: payload.host
      plugin:
        name: split
        parameters: {separator: '#', segment: 1}
"""

METERS = """\
metric:
  - name: volume.size
    event_type: ['volume.create.*', 'volume.resize.*']
    type: gauge
    unit: GiB
    volume: $.payload.size
    resource_id: $.payload.volume_id
    project_id: $.payload.tenant_id
    user_id: $.payload.user_id
    metadata:
      display_name: $.payload.display_name
  - name: $.payload.metrics.[*].name
    event_type: host.metrics
    type: cumulative
    unit: $.payload.metrics.[*].unit
    volume: $.payload.metrics.[*].value
    resource_id: $.payload.host + "_" + $.payload.node
    lookup: ['name', 'unit', 'volume']
"""
