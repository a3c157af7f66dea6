"""The command ``converge``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from converge import collection

__all__ = ["main"]

EXIT_COMPLETE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
#: ``converge why`` found something that is stuck.
EXIT_STUCK = 3
#: ``converge check`` found something that has drifted.
EXIT_DRIFTED = 3
#: An error inside converge: EX_SOFTWARE of sysexits.h.
EXIT_INTERNAL = 70
#: As a shell reports a process that was ended by the signal.
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: the words after the program's name; None: those of this process.
    :returns: the exit status: 0 complete, 1 the stack failed, 2 bad usage or input, 3 something is
        stuck, 70 an error inside converge, 130 interrupted, 141 stdout was closed by its reader,
        143 terminated.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # a character that the terminal's encoding lacks must not end the program
            reconfigure(errors="backslashreplace")
    is_own = argv is None
    words = sys.argv[1:] if argv is None else argv
    if is_own:
        # half of the time of a short command went into garbage of which there was none
        collection.spare()
    try:
        if any("@" in word or "://" in word for word in words):
            words = _known(words, is_own=is_own)
        status = _run(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python flushes stdout once more when it exits, and would report an error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return _report_interrupt(words)
    except Exception as error:
        return _report(error, words)
    finally:
        if is_own:
            collection.spare()


def _known(words: Sequence[str], *, is_own: bool) -> Sequence[str]:
    """Hide from now on what is secret in the words of a command line.

    :param is_own: they are those of this process.
    :returns: the words to go by.
    """
    if is_own:
        from converge.cli.titles import own_words

        return own_words(words)
    from converge.hiding import learn_words

    learn_words(words)
    return words


def _run(argv: Sequence[str]) -> int:
    from converge.cli.parser import parse

    try:
        arguments = parse(argv)
    except SystemExit:  # after --help and --version
        return EXIT_COMPLETE
    # imported late: this imports the database's libraries
    from converge.cli.commands import run

    return run(arguments)


def _report_interrupt(words: Sequence[str]) -> int:
    from converge.cli.endings import find_json, interrupted_document
    from converge.cli.output import write_json

    if find_json(words):
        write_json(interrupted_document(EXIT_INTERRUPTED), sys.stdout)
    else:
        print("\nconverge: interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _report(error: Exception, words: Sequence[str]) -> int:
    from converge.cli.endings import error_document, find_json
    from converge.cli.mistakes import list_mistakes, print_count, print_mistakes
    from converge.cli.output import write_json
    from converge.errors import ConvergeError, TemplateError
    from converge.escaping import lines
    from converge.hiding import hide, hide_in

    hide_in(error)
    if os.environ.get("CONVERGE_DEBUG"):
        import traceback

        traceback.print_exception(error)
    expected = isinstance(error, ConvergeError | OSError)
    status = EXIT_USAGE if expected else EXIT_INTERNAL
    kind = type(error).__name__
    message = hide(str(error)) or kind
    several = error.errors if isinstance(error, TemplateError) and len(error.errors) > 1 else ()
    if find_json(words):
        place: dict[str, Any] = {}
        if isinstance(error, TemplateError):
            place = {"source": error.source, "line": error.line}
        if several:
            place["mistakes"] = list_mistakes(several)
        write_json(error_document(message, kind, status, **place), sys.stdout)
        return status
    if several:
        print_mistakes(several)
        print_count(several)
        return status
    if not expected:
        message = f"unexpected {kind}: {message}"
    print(f"converge: error: {lines(message)}", file=sys.stderr)
    if not expected:
        print("set CONVERGE_DEBUG=1 to see the traceback", file=sys.stderr)
    return status
