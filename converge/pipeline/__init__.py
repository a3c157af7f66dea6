"""Notifications: from messages of a bus to events and samples, and through sinks.

A :class:`Pipeline` is read from a file. :func:`process_batch` handles a batch of messages: when it
returns, they can be acknowledged. :func:`sweep` does what waits for its time: retries, and what
steps have collected.
"""

from converge.pipeline.batch import deliver, process_batch, receive, resume
from converge.pipeline.events import EventDefinitions
from converge.pipeline.items import Event, Group, Item, Sample, Trait
from converge.pipeline.letters import DeadLetter, DeadLetters, Filter
from converge.pipeline.meters import MeterDefinitions
from converge.pipeline.notification import Limits, Message, Notification, Reason, Refused, parse
from converge.pipeline.pipeline import Pipeline
from converge.pipeline.pruning import PrunedNotifications, prune, refuse_old
from converge.pipeline.publishers import Outlet, Publisher
from converge.pipeline.steps import Advance, StatefulStep, Step
from converge.pipeline.sweeping import sweep
from converge.pipeline.work import BatchResult, Work

__all__ = [
    "Advance",
    "BatchResult",
    "DeadLetter",
    "DeadLetters",
    "Event",
    "EventDefinitions",
    "Filter",
    "Group",
    "Item",
    "Limits",
    "Message",
    "MeterDefinitions",
    "Notification",
    "Outlet",
    "Pipeline",
    "PrunedNotifications",
    "Publisher",
    "Reason",
    "Refused",
    "Sample",
    "StatefulStep",
    "Step",
    "Trait",
    "Work",
    "deliver",
    "parse",
    "process_batch",
    "prune",
    "receive",
    "refuse_old",
    "resume",
    "sweep",
]
