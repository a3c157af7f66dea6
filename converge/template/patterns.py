"""Regular expressions that match in bounded time.

Python's matcher backtracks: with the pattern ``(a+)+b`` a text of 30 characters can take it years,
and nothing can stop it. Here all paths through a pattern are followed at once, one character after
the other, and the work is counted. The syntax and the meaning are Python's: its parser reads the
pattern, and its matcher decides whether a single character fits. A pattern that cannot be matched
in this way is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from converge.errors import BadInput

# not public; the tests compare the results with those of Python's own matcher
_parser: Any = re._parser  # type: ignore[attr-defined]
_compiler: Any = re._compiler  # type: ignore[attr-defined]
_constants: Any = re._constants  # type: ignore[attr-defined]

#: How much work one match may be: about a second's.
WORK = 2_000_000
#: The most states of a pattern, with its repetitions written out.
STATES = 5_000
# how many transitions between sets of states are remembered
_REMEMBERED = 2_000

#: A lookaround: whether it holds at a position of a text.
Look = Callable[["_Match", int], bool]

_REFUSED = {
    "GROUPREF": "a reference to a group",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}


class PatternError(BadInput):
    """A pattern cannot be used, or a text cannot be matched within the limits."""


@dataclass(slots=True)
class _State:
    """A state of a pattern.

    :ivar test: whether a character leads to the next states; None: none is needed.
    :ivar look: the lookaround that must hold, as an index of the pattern's looks.
    :ivar to: the next states.
    """

    test: Callable[[str], object] | None = None
    look: int | None = None
    to: list[int] = field(default_factory=list)


class Pattern:
    """A pattern that is ready to be matched.

    :raises PatternError: it is not a regular expression, is too large, or cannot be supported.
    """

    def __init__(self, text: str) -> None:
        self.states: list[_State] = []
        self.looks: list[Look] = []
        self._tests: dict[Any, Callable[[str], object]] = {}
        try:
            parsed = _parser.parse(text)
            self.end = self._state()
            self.start = self._sequence(parsed, parsed.state.flags, self.end)
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(f"it is not a regular expression: {error}") from None

    def fullmatch(self, text: str) -> bool:
        """Whether the whole of a text matches.

        :raises PatternError: it would be too much work to find out.
        """
        try:
            return _Match(self, text).accepts(self.start, self.end, 0, len(text))
        except RecursionError:
            raise PatternError("the allowed_pattern nests its lookarounds too deeply") from None

    # each of these returns the first state of a part whose last state leads to ``end``

    def _state(self, *to: int, test: Any = None, look: int | None = None) -> int:
        if len(self.states) >= STATES:
            raise PatternError(
                f"it is too large: it has over {STATES:,} states, with its repetitions written "
                "out; to limit a length, use the constraint length"
            )
        self.states.append(_State(test, look, list(to)))
        return len(self.states) - 1

    def _sequence(self, parsed: Iterable[Any], flags: int, end: int) -> int:
        for operation, argument in reversed(list(parsed)):
            end = self._part(str(operation), operation, argument, flags, end)
        return end

    def _part(self, name: str, operation: Any, argument: Any, flags: int, end: int) -> int:
        if name in _REFUSED:
            raise PatternError(f"converge does not support {_REFUSED[name]}")
        if name == "SUBPATTERN":
            _, more, less, parsed = argument
            return self._sequence(parsed, (flags | more) & ~less, end)
        if name == "BRANCH":
            return self._state(*(self._sequence(one, flags, end) for one in argument[1]))
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, parsed = argument
            return self._repeat(least, most, parsed, flags, end)
        if name == "AT":
            found = self._compiled(operation, argument, flags).match
            return self._look(lambda match, place: found(match.text, place) is not None, end)
        if name in ("ASSERT", "ASSERT_NOT"):
            direction, parsed = argument
            return self._look(self._around(direction, parsed, flags, name == "ASSERT"), end)
        if name == "FAILURE":
            return self._state()
        return self._state(end, test=self._test(operation, argument, flags))

    def _repeat(self, least: int, most: int, parsed: Any, flags: int, end: int) -> int:
        if most is _constants.MAXREPEAT:
            loop = self._state(end)
            self.states[loop].to.append(self._sequence(parsed, flags, loop))
            end = loop
        else:
            leave = end
            for _ in range(most - least):
                inner = self._sequence(parsed, flags, end)
                if inner == end:
                    # it is empty, however often it is repeated
                    break
                end = self._state(inner, leave)
        for _ in range(least):
            before = end
            end = self._sequence(parsed, flags, before)
            if end == before:
                break
        return end

    def _look(self, look: Look, end: int) -> int:
        self.looks.append(look)
        return self._state(end, look=len(self.looks) - 1)

    def _around(self, direction: int, parsed: Any, flags: int, wanted: bool) -> Look:
        end = self._state()
        start = self._sequence(parsed, flags, end)
        if direction > 0:
            return lambda match, place: match.accepts(start, end, place, None) is wanted
        # Python accepts only those of one width
        width = parsed.getwidth()[0]
        return lambda match, place: (
            (place >= width and match.accepts(start, end, place - width, place)) is wanted
        )

    def _test(self, operation: Any, argument: Any, flags: int) -> Callable[[str], object]:
        key = (operation, repr(argument), flags)
        if key not in self._tests:
            self._tests[key] = self._compiled(operation, argument, flags).fullmatch
        return self._tests[key]

    def _compiled(self, operation: Any, argument: Any, flags: int) -> re.Pattern[str]:
        state = _parser.State()
        state.flags, state.str = flags, ""
        compiled: re.Pattern[str] = _compiler.compile(
            _parser.SubPattern(state, [(operation, argument)]), flags
        )
        return compiled


class _Match:
    """One text being matched; its work is counted, lookarounds included."""

    def __init__(self, pattern: Pattern, text: str) -> None:
        self.text = text
        self._pattern = pattern
        self._work = 0
        self._held: dict[tuple[int, int], bool] = {}

    def accepts(self, start: int, end: int, place: int, stop: int | None) -> bool:
        """Whether the text leads from one state to another.

        :param place: the position in the text at which to start.
        :param stop: the position at which to end; None: anywhere.
        """
        now = self._spread([start], place)
        known: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        last = len(self.text) if stop is None else stop
        while place < last and now:
            if stop is None and end in now:
                return True
            character = self.text[place]
            place += 1
            following = known.get((now, character))
            if following is None:
                following = self._follow(now, character)
                if not self._pattern.looks:
                    following = self._spread(following, place)
                if len(known) < _REMEMBERED:
                    known[now, character] = following
            self._count(1)
            now = self._spread(following, place) if self._pattern.looks else following
        return end in now

    def _follow(self, now: frozenset[int], character: str) -> frozenset[int]:
        states = self._pattern.states
        self._count(len(now))
        return frozenset(
            to
            for one in now
            if (test := states[one].test) is not None and test(character)
            for to in states[one].to
        )

    def _spread(self, states: Iterable[int], place: int) -> frozenset[int]:
        """All states that are reached without a character."""
        found = set(states)
        todo = list(found)
        while todo:
            one = self._pattern.states[todo.pop()]
            self._count(1)
            if one.test is not None or (one.look is not None and not self._holds(one.look, place)):
                continue
            new = [to for to in one.to if to not in found]
            found.update(new)
            todo += new
        return frozenset(found)

    def _holds(self, look: int, place: int) -> bool:
        if (look, place) not in self._held:
            self._held[look, place] = self._pattern.looks[look](self, place)
        return self._held[look, place]

    def _count(self, work: int) -> None:
        self._work += work
        if self._work > WORK:
            raise PatternError(
                f"matching its {len(self.text)} characters with the allowed_pattern takes too much "
                "work; make the pattern simpler, or the value shorter"
            )


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """The pattern of a text.

    :raises PatternError: as :class:`Pattern` does.
    """
    return Pattern(text)
