"""Shared by all tests: uvloop as in production, and a hypothesis profile without a stopwatch."""

import asyncio
from collections.abc import Callable

import uvloop
from hypothesis import HealthCheck, settings

settings.register_profile(
    "discloud", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("discloud")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test runs on uvloop."""
    return {"uvloop": uvloop.new_event_loop}
