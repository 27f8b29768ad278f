"""Loading what a fleet's table asks for and this process does not have."""

import threading
from collections.abc import Callable
from typing import Any, Final

from prodml._workers import WORKERS
from prodml.clock import Clock
from prodml.errors import UnknownVersion
from prodml.serving.server import VersionedModelServer

__all__ = ["Loads"]

_SHORTEST: Final = 1.0
_LONGEST: Final = 60.0


class Loads:
    """Loads one version at a time, off the thread that follows the fleet.

    Parameters
    ----------
    server
        Where versions are to be loaded.
    loader
        Makes the model of a version; it may also load it into the server itself, after
        warming it up, and return None.  Without one nothing is loaded.
    done
        Called on the loading thread when a version is there, or is not going to be.

    Notes
    -----
    A version that could not be loaded is tried again after one second, then two, four, and
    so on up to a minute.
    """

    def __init__(
        self,
        server: VersionedModelServer,
        loader: Callable[[str], Any] | None,
        clock: Clock,
        done: Callable[[], None],
    ) -> None:
        self._server: VersionedModelServer = server
        self._loader: Callable[[str], Any] | None = loader
        self._clock: Clock = clock
        self._done: Callable[[], None] = done
        self._now: str = ""
        self._failed: dict[str, tuple[str, float, float]] = {}
        self._lock: threading.Lock = threading.Lock()

    def lack(self, version: str) -> tuple[str, bool]:
        """Begin to load ``version`` if need be; say why it is not there, and if it may soon be."""
        if self._loader is None:
            return f"not loaded: {version}", False
        with self._lock:
            why, until, _ = self._failed.get(version, ("", 0.0, 0.0))
            if not self._now and why and self._clock.monotonic() < until:
                return why, False
            begins = not self._now
            self._now = self._now or version
        if begins:
            try:
                WORKERS.submit(self._load, (self._loader, version), {})
            except Exception as error:
                self._end(version, error)
                return self._failed[version][0], False
        return f"loading: {self._now or version}", True

    def forget(self) -> None:
        """Begin anew in a forked child, where nobody is loading."""
        self._now = ""
        self._lock = threading.Lock()

    def _load(self, loader: Callable[[str], Any], version: str) -> None:
        try:
            self._bring(loader, version)
        except BaseException as error:
            # An exit on this thread is a failure, too: nobody else would ever load again.
            self._end(version, error)
        else:
            self._end(version, None)
        self._done()

    def _bring(self, loader: Callable[[str], Any], version: str) -> None:
        server, model = self._server, loader(version)
        if model is not None and version not in server.versions:
            server.load_model(version, model)
        if version not in server.versions:
            raise UnknownVersion(server.name, version, server.versions)

    def _end(self, version: str, error: BaseException | None) -> None:
        with self._lock:
            self._now = ""
            pause = self._failed.pop(version, ("", 0.0, _SHORTEST / 2.0))[2]
            if error is not None:
                pause = min(2.0 * pause, _LONGEST)
                why = f"not loaded: {version}: {type(error).__name__}: {error}"
                self._failed[version] = (why, self._clock.monotonic() + pause, pause)
