"""The values of options: what text is taken, and the message about other text."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from converge.errors import BadInput
from converge.model import check_name

#: Seconds: ten years. More would overflow the dates of some databases.
TIMEOUT_MAX = 315_360_000


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def convert(text: str) -> int:
        wanted = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum or (maximum is not None and number > maximum):
            raise argparse.ArgumentTypeError(f"must be a whole number {wanted}, not {text!r}")
        return number

    return convert


def queue(text: str) -> str:
    try:
        return check_name("queue", text)
    except BadInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds(
    minimum: float = 0, maximum: float = TIMEOUT_MAX, *, above: bool = False
) -> Callable[[str], float]:
    """:param above: the minimum itself is too low."""
    wanted = f"above {minimum:g}, at most {maximum}" if above else f"from {minimum:g} to {maximum}"

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        # not a number compares as false
        if not minimum <= number <= maximum or (above and number == minimum):
            raise argparse.ArgumentTypeError(f"must be a number of seconds {wanted}, not {text!r}")
        return number

    return convert


def json_value(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be JSON, as '\"text\"', 5 or '{{\"key\": 1}}', not {text!r} ({error})"
        ) from None


def version(text: str) -> int | str:
    if text == "empty":
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(
            f"must be the number of a version, at least 1, or empty, not {text!r}"
        )
    return int(text)


def limit(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 0, or all, not {text!r}"
        )
    return int(text)


def since(text: str) -> float | datetime:
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            number = math.nan
        else:
            # times are printed in UTC
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    # not a number compares as false
    if not 0 <= number <= TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(
            f"must be a number of seconds from 0 to {TIMEOUT_MAX}, or a time such as "
            f"2026-12-31T23:59:59Z, not {text!r}"
        )
    return number


def parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value
