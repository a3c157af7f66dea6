"""Fixtures for tests of groups."""

from tests.group.world import world as world
