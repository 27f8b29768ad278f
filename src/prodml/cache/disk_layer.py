"""The disk tier and the shared store behind it, as one tier to the rest of the cache."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from prodml._call import Invoke, Steps
from prodml.cache.disk import DiskTier
from prodml.cache.sealing import _HEADER, Sealer
from prodml.cache.tier import StoreTier
from prodml.stores import AsyncStore, Store

__all__ = ["DiskLayer", "ends_of"]

# Epochs are so long; envelopes are longer.
_TOKEN: Final = 8
_PATIENCE: Final = 5.0


@final
class DiskLayer(StoreTier):
    """Looks on the disk first, and keeps there what the store gave and what it is given.

    Epochs are the store's.  The disk remembers them, so that a process that starts while
    the store is away, or has none, does not bring back what was dropped before.

    Parameters
    ----------
    disk
        The file.
    below
        The store that is asked next, or None.
    ends
        When the entry in an envelope ends, see :func:`ends_of`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from prodml._call import run
    >>> disk = DiskTier(Path(tempfile.mkdtemp(), "predictions.db"))
    >>> layer = DiskLayer(disk, None, ends=lambda envelope: None)
    >>> run(layer.write({"name": b"an envelope"}, None)), run(layer.read(["name", "other"]))
    (True, [b'an envelope', None])
    >>> run(layer.close())
    """

    __slots__: tuple[str, ...] = ("_below", "_disk", "_ends", "_known")

    def __init__(
        self, disk: DiskTier, below: StoreTier | None, ends: Callable[[bytes], float | None]
    ) -> None:
        # Nothing of the base is used: it stands for any tier.
        self._direct = None
        self._disk: DiskTier = disk
        self._below: StoreTier | None = below
        self._ends: Callable[[bytes], float | None] = ends
        # Epochs heard or told of in this process: what the disk says is older.
        self._known: dict[str, bytes] = {}
        self.leases: bool = below is not None and below.leases

    def down(self) -> bool:
        """Never: the disk is there."""
        return False

    def away(self) -> bool:
        """Whether what processes share cannot be asked."""
        return self._below is not None and self._below.down()

    def read(self, names: Sequence[str]) -> Steps:
        """Steps to ``([bytes or None, ...], None)``; one round trip for what the disk lacks."""
        found = self._disk.get_many(names)
        absent = [at for at, value in enumerate(found) if value is None]
        if self._below is None or not absent:
            return found, None
        values, _ = yield from self._below.read([names[at] for at in absent])
        self._keep({names[at]: value for at, value in zip(absent, values, strict=True)})
        for at, value in zip(absent, values, strict=True):
            found[at] = value
        return found, None

    def write(self, items: Mapping[str, bytes], ttl: float | None) -> Steps:
        """Steps to ``(whether all was taken, None)``; a dropped version is on the disk then."""
        tokens = {name: value for name, value in items.items() if len(value) == _TOKEN}
        taken = True
        for name, token in tokens.items():
            self._known[name] = token
            # With a limit: a task must not hold up its loop for a disk that writes.
            pinned, error = yield Invoke(self._disk.pin, (name, token), timeout=_PATIENCE)
            taken = taken and error is None and bool(pinned)
        self._keep({name: value for name, value in items.items() if name not in tokens})
        if self._below is None:
            return taken, None
        return (yield from self._below.write(items, ttl))

    def settle(self, name: str, proposal: bytes) -> Steps:
        """Steps to ``(epoch now at name or None if there is no news, None)``."""
        if self._below is not None:
            token, _ = yield from self._below.settle(name, proposal)
            if token is not None:
                self._note(name, token)
                return token, None
            if name in self._known:
                return None, None
        known = self._disk.token(name)
        if known is None and self._below is None and name not in self._known:
            # The first of all: only this file has to know it.
            known = proposal
            self._disk.propose(name, proposal)
        if known is not None:
            self._known[name] = known
        return known, None

    def claim(self, name: str, token: str, lease: float) -> Steps:
        """Steps to ``((value or None, whether to compute it here), None)``."""
        if self._below is None:
            return (None, True), None
        outcome, error = yield from self._below.claim(name, token, lease)
        self._keep_one(name, outcome[0])
        return outcome, error

    def watch(self, name: str) -> Steps:
        """Steps to ``((value or None, token of who computes it or None), None)``."""
        if self._below is None:
            return (None, None), None
        outcome, error = yield from self._below.watch(name)
        self._keep_one(name, outcome[0])
        return outcome, error

    def prolong(self, name: str, token: str, lease: float) -> Steps:
        """Steps to ``(whether it is still to be computed here, None)``."""
        if self._below is None:
            return True, None
        return (yield from self._below.prolong(name, token, lease))

    def unclaim(self, name: str, token: str) -> Steps:
        """Steps that let others compute ``name``."""
        if self._below is None:
            return None, None
        return (yield from self._below.unclaim(name, token))

    @property
    def store(self) -> Store | AsyncStore | None:
        """The store itself."""
        return None if self._below is None else self._below.store

    def close(self) -> Steps:
        """Steps that write what waits, and let go of file and connections."""
        yield Invoke(self._disk.close, timeout=2 * _PATIENCE)
        if self._below is not None:
            yield from self._below.close()
        return None, None

    def _note(self, name: str, token: Any) -> None:
        if type(token) is bytes and len(token) == _TOKEN and self._known.get(name) != token:
            self._known[name] = token
            self._disk.pin(name, token, durable=False)

    def _keep_one(self, name: str, value: Any) -> None:
        if value is not None:
            self._keep({name: value})

    def _keep(self, items: Mapping[str, Any]) -> None:
        """Give envelopes to the disk, for the time that they have left."""
        self._disk.put_many(
            {name: (value, self._ends(value)) for name, value in items.items() if _is_bytes(value)}
        )


def _is_bytes(value: Any) -> bool:
    return type(value) is bytes


def ends_of(sealer: Sealer) -> Callable[[bytes], float | None]:
    """How to tell, from an envelope, when its entry ends: seconds since the epoch, or None.

    This is for housekeeping: nothing is checked here, and everything when it is opened.

    Examples
    --------
    >>> from prodml.cache.entry import Entry
    >>> sealer = Sealer(b"sixteen bytes...")
    >>> ends_of(sealer)(sealer.seal("name", Entry(b"body", created=100.0, ttl=60.0)))
    160.0
    """
    start = sealer._start  # noqa: SLF001 - of this room

    def ends(envelope: bytes) -> float | None:
        if len(envelope) < start + _HEADER.size:
            return 0.0
        created, ttl, _, _ = _HEADER.unpack_from(envelope, start)
        return created + ttl if ttl else None

    return ends
