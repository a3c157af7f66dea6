"""Regular expressions that cannot take for ever.

Python's matcher goes back and tries again, which takes a text of 30 characters longer than anybody
lives if the pattern is ``(a+)+b``, and nothing can stop it. Here all the ways through a pattern are
walked at once, one character after the other, and the work is counted. The syntax and the meaning
are Python's: its parser reads the pattern, and its matcher says of single characters whether they
fit. What cannot be walked so is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from converge.errors import BadInput

# not public; whether it still says what it did, the tests compare with Python's own matcher
_parser: Any = re._parser  # type: ignore[attr-defined]
_compiler: Any = re._compiler  # type: ignore[attr-defined]
_constants: Any = re._constants  # type: ignore[attr-defined]

#: How much work one match may be: about a second's.
WORK = 2_000_000
#: The largest pattern, when what it repeats is written out.
STATES = 5_000
# how many sets of states are remembered with where they lead
_REMEMBERED = 2_000

#: A look around: whether it holds at a place of a text.
Look = Callable[["_Match", int], bool]

_REFUSED = {
    "GROUPREF": "a reference to a group",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}


class PatternError(BadInput):
    """A pattern cannot be used, or a text not be matched within the limits."""


@dataclass(slots=True)
class _State:
    """A place in a pattern.

    :ivar test: which character leads on; None: it needs none.
    :ivar look: what must hold to go on, of the pattern's looks.
    :ivar to: where it leads.
    """

    test: Callable[[str], object] | None = None
    look: int | None = None
    to: list[int] = field(default_factory=list)


class Pattern:
    """A pattern that is ready to be matched.

    :raises PatternError: it is none, or too large, or has what cannot be walked.
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

        :raises PatternError: to know that would be too much work.
        """
        try:
            return _Match(self, text).accepts(self.start, self.end, 0, len(text))
        except RecursionError:
            raise PatternError("what the allowed_pattern looks around is nested too deep") from None

    # each of these gives the state at which a part begins that leads to another state

    def _state(self, *to: int, test: Any = None, look: int | None = None) -> int:
        if len(self.states) >= STATES:
            raise PatternError(
                f"it is too large: with what it repeats, it has over {STATES:,} places; to limit a "
                "length, use the constraint length"
            )
        self.states.append(_State(test, look, list(to)))
        return len(self.states) - 1

    def _sequence(self, parsed: Iterable[Any], flags: int, end: int) -> int:
        for operation, argument in reversed(list(parsed)):
            end = self._part(str(operation), operation, argument, flags, end)
        return end

    def _part(self, name: str, operation: Any, argument: Any, flags: int, end: int) -> int:
        if name in _REFUSED:
            raise PatternError(f"converge does not match {_REFUSED[name]}")
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
                    # it is empty, however often
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
        # Python takes no others than those of one width
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
    """One text being matched; its work is counted over all that is looked at around."""

    def __init__(self, pattern: Pattern, text: str) -> None:
        self.text = text
        self._pattern = pattern
        self._work = 0
        self._held: dict[tuple[int, int], bool] = {}

    def accepts(self, start: int, end: int, place: int, stop: int | None) -> bool:
        """Whether what begins at a state leads to another one.

        :param place: of the text, where it begins.
        :param stop: where it has to end; None: anywhere.
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
        """All that is reached without a character."""
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
                f"to match its {len(self.text)} characters with the allowed_pattern is too much "
                "work; make the pattern simpler, or the value shorter"
            )


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """The pattern of a text.

    :raises PatternError: it is none, or too large, or has what cannot be walked.
    """
    return Pattern(text)
