"""A connection that waits for a nudge: pub/sub, of which only the ringing is heard.

What is published does not matter and is not read: whoever is rung looks for the truth himself.
A message that is lost, doubled or forged costs one look.
"""

from typing import Any, final

from prodml.integrations.redis_protocol import packed

__all__ = ["Ear"]

_CHUNK = 65536


@final
class Ear:
    """A subscription to ``channel`` on an open connection, to be waited on by its ``fileno``.

    Parameters
    ----------
    connected
        Socket of a connection that has introduced itself.
    channel
        What to listen to.
    """

    __slots__: tuple[str, ...] = ("_open", "_socket")

    def __init__(self, connected: Any, channel: str) -> None:
        self._socket: Any = connected
        self._open: bool = True
        connected.sendall(packed([("SUBSCRIBE", channel)]))
        connected.setblocking(False)

    def fileno(self) -> int:
        """What to wait on."""
        return int(self._socket.fileno())

    def drain(self) -> bool:
        """Take away what was rung; return whether it can ring again."""
        try:
            # An encrypted socket may hold more than the kernel knows of.
            while self._open:
                self._open = bool(self._socket.recv(_CHUNK))
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            # Its own word for "nothing more just now".
            self._open = type(error).__name__ == "SSLWantReadError"
        return self._open

    def alive(self) -> bool:
        """Whether the server has not hung up, as far as one knows."""
        return self._open

    def close(self, *, ours: bool = True) -> None:  # noqa: ARG002
        """Let go of the connection, without a word to the server."""
        self._socket.close()
