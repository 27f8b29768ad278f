"""Fixtures for every room."""

from tests.servers import oldest_url, private_server, redis_url, shared_server

__all__ = ["oldest_url", "private_server", "redis_url", "shared_server"]
