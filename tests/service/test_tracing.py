"""Spans from the start of a traversal to its handlers, in this process and in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import converge
from converge import tracing
from converge.testing import FakeWorld, StepEngine
from tests.templates import template


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What has been traced."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def finished(exporter: InMemorySpanExporter) -> dict[tuple[str, Any], ReadableSpan]:
    """The spans by name and resource."""
    return {
        (span.name, (span.attributes or {}).get("converge.resource")): span
        for span in exporter.get_finished_spans()
    }


class Traced(converge.ResourceType):
    """Has a span of its own; fails on the name "bad"."""

    def create(self, context: converge.Context, properties: Any) -> converge.Physical:
        with trace.get_tracer("host").start_as_current_span("host.create"):
            if context.name == "bad":
                raise ValueError("hunter2")
            return converge.Physical("1")

    def delete(self, context: converge.Context, physical_id: str | None) -> None:
        """There is nothing to delete."""


def test_each_handler_is_below_the_span_of_the_start(
    store: converge.Store, exporter: InMemorySpanExporter
) -> None:
    stack = store.create_stack("shop", template({"a": [], "b": ["a"]}, type="traced"))
    StepEngine(store, {"traced": Traced()}).run()
    spans = finished(exporter)
    start = spans["converge.create_stack", None]
    assert start.parent is None
    assert start.attributes == {"converge.stack": "shop"}
    for name in "ab":
        node = spans["converge.create", name]
        assert node.parent is not None
        assert node.parent.span_id == start.context.span_id
        assert node.context.trace_id == start.context.trace_id
        assert node.attributes is not None
        assert node.attributes["converge.stack"] == "shop"
        assert node.attributes["converge.type"] == "traced"
        assert node.attributes["converge.traversal"] == stack.traversal
        assert node.status.status_code is trace.StatusCode.UNSET
    end = spans["converge.finish", None]
    assert end.parent is not None
    assert end.parent.span_id == start.context.span_id
    own = spans["host.create", None]
    assert own.parent is not None
    assert own.parent.span_id == spans["converge.create", "b"].context.span_id


def test_a_rollback_belongs_to_the_trace_of_the_failure_and_no_reason_is_told(
    store: converge.Store, exporter: InMemorySpanExporter
) -> None:
    with trace.get_tracer("host").start_as_current_span("host.request") as request:
        store.create_stack(
            "shop", template({"a": [], "bad": ["a"]}, type="traced"), on_failure="rollback"
        )
    StepEngine(store, {"traced": Traced()}).run()
    spans = finished(exporter)
    assert spans["converge.create_stack", None].parent == request.get_span_context()
    failed = spans["converge.create", "bad"]
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert "hunter2" not in failed.to_json()
    deleted = spans["converge.delete", "a"]
    assert deleted.context.trace_id == request.get_span_context().trace_id


def test_a_node_without_a_handler_has_a_span(
    store: converge.Store, exporter: InMemorySpanExporter
) -> None:
    bodies = template({"bad": [], "after": ["bad"]}, type="traced")
    store.create_stack("shop", bodies, on_failure="continue")
    StepEngine(store, {"traced": Traced()}).run()
    spans = finished(exporter)
    skipped = spans["converge.skip", "after"]
    assert skipped.parent is not None
    assert skipped.parent.span_id == spans["converge.create_stack", None].context.span_id
    assert skipped.status.status_code is trace.StatusCode.UNSET


def test_without_opentelemetry_nothing_is_traced(
    store: converge.Store, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trace.get_tracer("host").start_as_current_span("host.request"):
        assert tracing.current() is not None
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert tracing.current() is None
        store.create_stack("shop", template({"a": []}))
        StepEngine(store, FakeWorld().types()).run()
    assert finished(exporter).keys() == {("host.request", None)}


ENGINE = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
one_line = lambda span: span.to_json(indent=None) + "\\n"
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=one_line)))
trace.set_tracer_provider(provider)
from converge.cli import main
sys.exit(main(["engine", "--until-idle", "--db", sys.argv[1]]))
"""


@pytest.mark.sqlite
def test_an_engine_in_another_process_goes_on_with_the_trace(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with converge.connect(url, create_schema=True) as store:
        store.create_stack("shop", template({"a": [], "b": ["a"]}, type="none"))
    start = finished(exporter)["converge.create_stack", None]
    ran = subprocess.run(
        [sys.executable, "-c", ENGINE, url],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(converge.__file__).parents[1])},
    )
    assert ran.returncode == 0, ran.stderr
    nodes = [json.loads(line) for line in ran.stdout.splitlines()]
    found = [node["attributes"].get("converge.resource") for node in nodes]
    # the last is the end of the traversal
    assert found == ["a", "b", None]
    for node in nodes:
        assert node["context"]["trace_id"] == f"0x{start.context.trace_id:032x}"
        assert node["parent_id"] == f"0x{start.context.span_id:016x}"
