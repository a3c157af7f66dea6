"""The command ``pipeline``: checks, draws and tries pipeline files. No database is needed."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE, EXIT_USAGE
from converge.cli.mistakes import list_mistakes, print_count, print_mistakes
from converge.cli.output import shown, write_file, write_json
from converge.errors import BadInput, PipelineError, TemplateError
from converge.escaping import escape, lines

if TYPE_CHECKING:
    from converge.pipeline import Pipeline
    from converge.pipeline.trial import Tried


def run(arguments: Namespace) -> int:
    """Do what was asked for."""
    return _OPERATIONS[arguments.operation](arguments)


def load_pipeline(arguments: Namespace) -> Pipeline:
    """The pipeline that the arguments name.

    :raises PipelineError: there are mistakes in it.
    """
    from converge.pipeline import Pipeline

    return Pipeline.load(
        *arguments.files, event_definitions=arguments.event_definitions, meters=arguments.meters
    )


def _check(arguments: Namespace) -> int:
    mistakes: tuple[TemplateError, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        pipeline = load_pipeline(arguments)
        notes = pipeline.notes
        pipeline.close()
    except PipelineError as error:
        mistakes = error.errors or (error,)
    status = EXIT_USAGE if mistakes else EXIT_COMPLETE
    if arguments.json:
        document = {"valid": not mistakes, "mistakes": list_mistakes(mistakes)}
        write_json({**document, "notes": list(notes)}, sys.stdout)
        return status
    print_mistakes(mistakes)
    for note in notes:
        print(f"converge: note: {lines(note)}", file=sys.stderr)
    if mistakes:
        print_count(mistakes)
    else:
        counts = {
            "source": len(pipeline.sources),
            "sink": len(pipeline.sinks),
            "event definition": len(pipeline.events),
            "meter": len(pipeline.meters),
        }
        told = (f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
        print(f"no mistakes: {', '.join(told)}")
    return status


def _graph(arguments: Namespace) -> int:
    from converge.drawing.graphs import ENDINGS, draw
    from converge.pipeline.drawing import graph_of

    output = arguments.output
    how = "json" if arguments.json else arguments.format
    how = how or ENDINGS.get(Path(output or "").suffix.lower(), "text")
    pipeline = load_pipeline(arguments)
    text = draw(graph_of(pipeline), how, title=Path(arguments.files[0]).stem)
    if output in (None, "-"):
        sys.stdout.write(text)
    else:
        write_file(output, text)
    return EXIT_COMPLETE


def _try(arguments: Namespace) -> int:
    from converge.pipeline.trial import Trial

    pipeline = load_pipeline(arguments)
    now = time.time()
    trial = Trial(pipeline, now, call=bool(arguments.call_steps))
    documents: list[dict[str, Any]] = []
    skipped: set[str] = set()

    def tell(number: int | None, tried: Tried) -> None:
        skipped.update(tried.skipped)
        if arguments.json:
            documents.append(_document(number, tried))
        else:
            _print(number, tried)

    if sys.stdin.isatty():
        raise BadInput(
            "try reads notifications from stdin, one JSON object a line: "
            "converge pipeline try FILE < notifications.jsonl"
        )
    for number, line in _lines(sys.stdin.buffer, pipeline.limits.size):
        tell(number, trial.take(_message(number, line, now)))
    rest = trial.end()
    if rest.sinks or rest.errors:
        tell(None, rest)
    if arguments.json:
        write_json(documents, sys.stdout)
    for name in sorted(skipped):
        note = f"the step {name} may have effects, so it was not called; --call-steps calls it"
        print(f"converge: note: {escape(note)}", file=sys.stderr)
    return EXIT_COMPLETE


def _lines(stream: IO[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, each with its number from 1, and not much longer than a body
    may be."""
    number = 0
    while line := stream.readline(size + 2):
        number += 1
        if len(line) == size + 2 and not line.endswith(b"\n"):
            while (more := stream.readline(65_536)) and not more.endswith(b"\n"):
                pass
        if line.strip():
            yield number, line.rstrip(b"\r\n")


def _message(number: int, line: bytes, now: float) -> Any:
    from converge.pipeline import Message

    return Message(line, fallback_id=f"line:{number}", fallback_time=now)


def _document(number: int | None, tried: Tried) -> dict[str, Any]:
    from converge.pipeline.items import to_json

    found: dict[str, Any] = {"line": number}
    if tried.refused is not None:
        refused = tried.refused
        return {**found, "dead_letter": {"reason": refused.reason, "message": str(refused)}}
    if tried.made is not None:
        made = tried.made
        found["event"] = None if made.event is None else to_json(made.event)
        found["samples"] = [to_json(one) for one in made.samples]
        found["problems"] = [str(one) for one in made.problems]
    found["sinks"] = {name: [to_json(one) for one in items] for name, items in tried.sinks.items()}
    found["errors"] = tried.errors
    return found


def _print(number: int | None, tried: Tried) -> None:
    if tried.refused is not None:
        print(f"line {number}: dead letter ({tried.refused.reason}): {escape(str(tried.refused))}")
        return
    if tried.notification is None or tried.made is None:
        print("at the end, held by steps until their time:")
    else:
        made = tried.made
        print(f"line {number}: {escape(tried.notification.event_type)}")
        if made.event is None:
            print("  no event")
        else:
            traits = [f"{one.name}={shown(one.value)}" for one in made.event.traits]
            print(f"  event: {escape(', '.join(traits))}")
        for sample in made.samples:
            print(f"  sample: {_told(sample)}")
        for problem in made.problems:
            print(f"  dead letter ({problem.reason}): {escape(str(problem))}")
    for name, items in tried.sinks.items():
        for item in items:
            print(f"  -> {escape(name)}: {_told(item)}")
    for name, error in tried.errors.items():
        print(f"  -> {escape(name)} fails at {escape(error)}")


def _told(item: Any) -> str:
    """An item in a few words."""
    from converge.pipeline import Group, Sample

    if isinstance(item, Sample):
        return escape(f"{item.name} = {item.volume:g} {item.unit} of {item.resource_id}")
    if isinstance(item, Group):
        whole = "" if item.complete else ", not complete"
        names = ", ".join(one.name for one in item.items)
        return escape(f"group {item.key}: {len(item.items)} items{whole}: {names}")
    return escape(f"event {item.name}")


_OPERATIONS = {"check": _check, "graph": _graph, "try": _try}
