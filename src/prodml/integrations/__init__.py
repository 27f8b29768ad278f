"""The doors: each module here knows one third party, and nothing else in the library does.

Import a door by its name, ``from prodml.integrations.redis import RedisStore``; most are
opened for you by a URL or a client object (see :mod:`prodml.stores`).
"""

__all__: list[str] = []
