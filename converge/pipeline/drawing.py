"""The graph of a pipeline: from sources through the stages of sinks."""

from __future__ import annotations

from converge.graph import Graph
from converge.pipeline.pipeline import Pipeline
from converge.pipeline.stages import Handover


def graph_of(pipeline: Pipeline) -> Graph[str]:
    """Sources and stages by name; each requires what comes before it."""
    edges: list[tuple[str, str | None]] = []
    first = {
        name: f"{name}/{sink.stages[0].name}"
        for name, sink in pipeline.sinks.items()
        if sink.stages
    }
    for source in pipeline.sources:
        edges.append((source.name, None))
        edges += [(first[name], source.name) for name in source.sinks if name in first]
    for name, sink in pipeline.sinks.items():
        steps = [stage for stage in sink.stages if not stage.is_publisher]
        before: str | None = None
        for stage in steps:
            node = f"{name}/{stage.name}"
            edges.append((node, before))
            before = node
        for stage in sink.stages[len(steps) :]:
            node = f"{name}/{stage.name}"
            edges.append((node, before))
            if before is None:
                # without steps, each publisher stands after the sources
                edges += [(node, one.name) for one in pipeline.sources if name in one.sinks]
            if isinstance(stage.work, Handover) and stage.work.sink in first:
                edges.append((first[stage.work.sink], node))
    return Graph(edges)
