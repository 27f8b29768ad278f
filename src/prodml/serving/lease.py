"""A version held for a while."""

from collections.abc import Callable
from typing import Any, Self, final

from prodml.serving.slot import Arm, Route

__all__ = ["Lease"]


@final
class Lease:
    """A version held for a ``with`` block; made by ``VersionedModelServer.lease``.

    The request is counted in on entering and out on leaving, exactly once.

    Examples
    --------
    >>> from prodml.serving import VersionedModelServer
    >>> server = VersionedModelServer()
    >>> server.load_model("v1", abs)
    >>> with server.lease("v1") as lease:
    ...     lease.version, lease.arm, lease.predict(-1)
    ('v1', 'pinned', 1)
    """

    __slots__: tuple[str, ...] = ("_resolve", "_route")

    def __init__(self, resolve: Callable[[], Route]) -> None:
        self._resolve: Callable[[], Route] = resolve
        self._route: Route | None = None

    def __enter__(self) -> Self:
        if self._route is not None:
            raise RuntimeError("this lease is held already; ask the server for another one")
        self._route = self._resolve()
        return self

    def __exit__(self, *_: object) -> None:
        route, self._route = self._held, None
        route.release()

    @property
    def version(self) -> str:
        """The version that is held."""
        return self._held.version

    @property
    def arm(self) -> Arm:
        """Why that one."""
        return self._held.arm

    @property
    def model(self) -> Any:
        """The model itself, for any of its methods."""
        return self._held.model

    def predict(self, features: Any) -> Any:
        """Answer of the held version."""
        return self._held.predict(features)

    @property
    def _held(self) -> Route:
        if self._route is None:
            raise RuntimeError("a lease is only valid inside its with block")
        return self._route
