"""Fixtures for every room."""

from tests.servers import private_server, redis_url, shared_server

__all__ = ["private_server", "redis_url", "shared_server"]
