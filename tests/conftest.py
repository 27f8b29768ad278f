"""Fixtures for every room."""

from hypothesis import HealthCheck, settings

from tests.servers import oldest_url, private_server, redis_url, shared_server

__all__ = ["oldest_url", "private_server", "redis_url", "shared_server"]

# What is timed is timed in benchmarks: a slow machine is no failure.
settings.register_profile(
    "untimed", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
)
settings.load_profile("untimed")
