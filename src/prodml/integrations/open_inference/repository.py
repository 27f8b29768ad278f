"""The hosted models, and the extension that loads and unloads them."""

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, TypeAlias, final

import msgspec

from prodml.errors import BadConfiguration, InvalidFeatures
from prodml.integrations.open_inference.endpoint import Endpoint
from prodml.integrations.open_inference.messages import Parameters
from prodml.integrations.open_inference.refusals import HttpError

__all__ = ["Loader", "Repository", "Unloader", "checked_name"]

Loader: TypeAlias = Callable[[str, Parameters], Any]
"""Makes the model of a name: what :class:`Endpoint` takes, an Endpoint, or None when it has
loaded a version into the server that is hosted already."""

Unloader: TypeAlias = Callable[[str, Endpoint], object]
"""Hears of a model that gets no more requests; its turn to close what it opened."""


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _LoadRequest(msgspec.Struct):
    parameters: Parameters | None = None


_INDEX: Final = msgspec.json.Decoder(_IndexRequest)
_LOAD: Final = msgspec.json.Decoder(_LoadRequest)


def checked_name(name: str) -> str:
    """``name`` of a model, if a path can carry it."""
    given: object = name
    if not isinstance(given, str) or not given or "/" in given:
        raise BadConfiguration(f"a model's name must be text without slashes, not {name!r}")
    return name


@final
@dataclass(slots=True, eq=False)
class Repository:
    """Endpoints by name.

    Parameters
    ----------
    endpoints
        The models at the start.
    loader, unloader
        Without a loader clients can look but neither load nor unload.
    hosted
        Makes the endpoint of what the loader returned.
    """

    endpoints: dict[str, Endpoint]
    _: KW_ONLY
    loader: Loader | None = None
    unloader: Unloader | None = None
    hosted: Callable[[Any], Endpoint] = Endpoint
    _moving: dict[str, str] = field(default_factory=dict[str, str], init=False, repr=False)
    _gone: dict[str, str] = field(default_factory=dict[str, str], init=False, repr=False)

    def __getitem__(self, name: str) -> Endpoint:
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            raise HttpError(404, f"there is no model {name!r}")
        return endpoint

    def unready(self) -> str:
        """Why not every model can answer; empty if each can and there is one."""
        if not self.endpoints:
            return "there is no model"
        found = ((name, endpoint.unready()) for name, endpoint in self.endpoints.items())
        return "; ".join(f"{name}: {why}" for name, why in found if why)

    def index(self, body: bytes) -> list[dict[str, str]]:
        """What is there and how it is; ``{"ready": true}`` leaves out what cannot answer."""
        only = bool(body) and _decoded(_INDEX, body).ready
        return [entry for entry in self._entries() if entry["state"] == "READY" or not only]

    async def load(self, name: str, body: bytes) -> None:
        """Let the loader make ``name``, on a thread; requests go on meanwhile.

        Raises
        ------
        HttpError
            403 without a loader, 409 while the model is on its way.
        Exception
            What the loader raised; what was hosted goes on.
        """
        loader = self._allowed()
        parameters = _decoded(_LOAD, body).parameters if body else None
        with self._move(name, "LOADING"):
            made = await asyncio.to_thread(loader, checked_name(name), parameters or {})
            if made is not None:
                endpoint = made if isinstance(made, Endpoint) else self.hosted(made)
                self._replace(name, endpoint)

    async def unload(self, name: str, body: bytes) -> None:
        """Send no more requests to ``name``; those inside end as they would.

        Raises
        ------
        HttpError
            403 without a loader, 404, 409 while the model is on its way.
        """
        self._allowed()
        if body:
            _decoded(_LOAD, body)
        endpoint = self[name]
        with self._move(name, "UNLOADING"):
            del self.endpoints[name]
            self._gone[name] = "unloaded"
            try:
                if self.unloader is not None:
                    await asyncio.to_thread(self.unloader, name, endpoint)
            finally:
                endpoint.close()

    def close(self) -> None:
        """Let the threads of all models end."""
        for endpoint in self.endpoints.values():
            endpoint.close()

    def _allowed(self) -> Loader:
        if self.loader is None:
            raise HttpError(
                403, "loading and unloading are switched off: the application has no loader"
            )
        return self.loader

    @contextmanager
    def _move(self, name: str, state: str) -> Generator[None, None, None]:
        if name in self._moving:
            raise HttpError(409, f"model {name!r} is {self._moving[name].lower()} already")
        self._moving[name] = state
        try:
            yield
        finally:
            del self._moving[name]

    def _replace(self, name: str, endpoint: Endpoint) -> None:
        before = self.endpoints.get(name)
        self.endpoints[name] = endpoint
        self._gone.pop(name, None)
        if before is not None and before is not endpoint:
            before.close()

    def _entries(self) -> Iterator[dict[str, str]]:
        for name, endpoint in self.endpoints.items():
            yield from _versions(name, endpoint)
        for name, state in self._moving.items():
            yield {"name": name, "state": state, "reason": ""}
        for name, reason in self._gone.items():
            if name not in self._moving:
                yield {"name": name, "state": "UNAVAILABLE", "reason": reason}


def _versions(name: str, endpoint: Endpoint) -> Iterator[dict[str, str]]:
    states = endpoint.server.states
    if not states:
        yield {"name": name, "state": "UNAVAILABLE", "reason": "no version is loaded"}
    for version, state in states.items():
        yield {"name": name, "version": version, "state": state.upper(), "reason": ""}


def _decoded(decoder: Any, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise InvalidFeatures([f"the body is not what this call takes: {error}"]) from None
