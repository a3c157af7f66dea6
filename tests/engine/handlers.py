"""Resource types whose handlers are functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import converge

Handler = Callable[[converge.Context, dict[str, Any]], Any]


class Does(converge.ResourceType):
    """Its create is a function."""

    def __init__(self, create: Handler, **retry: Any) -> None:
        self._create = create
        self.retry = converge.RetryPolicy(**retry)  # type: ignore[misc]

    def create(self, context: converge.Context, properties: Any) -> Any:
        return self._create(context, properties)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


def good(context: converge.Context, properties: dict[str, Any]) -> str:
    return "good"


class Quick(converge.ResourceType):
    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> None: ...

    def delete(self, context: converge.Context, physical_id: str) -> None: ...
