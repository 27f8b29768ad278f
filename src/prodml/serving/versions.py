"""The versions of a server: who gets which traffic, and back again; an audited history."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prodml._workers import WORKERS
from prodml.errors import BadConfiguration, Rejected
from prodml.events import (
    DefaultVersionChanged,
    Event,
    RolledBack,
    TrafficRouted,
    VersionQuarantined,
)
from prodml.serving.loading import Loading
from prodml.serving.plain import with_data
from prodml.serving.routing import Table
from prodml.serving.traffic import Cohorts, Overrides, Shadows, Variants

__all__ = ["Versions"]

_LOG = logging.getLogger("prodml.serving")


@dataclass(kw_only=True, slots=True, eq=False)
class Versions(Loading):
    """Which versions are loaded and who gets which traffic: the commands of a server.

    Every command builds the next immutable table and stores it whole, so a request sees
    all of it or nothing; a refused command changes nothing.  Facts are stated after the
    change, never under the lock.

    Examples
    --------
    >>> versions = Versions(name="churn")
    >>> versions.load_model("v1", abs)
    >>> versions.set_default_version("v1", reason="first")
    >>> [(change.action, change.version, change.reason) for change in versions.history]
    [('loaded', 'v1', ''), ('default', 'v1', 'first')]
    """

    keep: int | None = None

    def __post_init__(self) -> None:
        # Spelt out: a slotted dataclass is a new class, which super() does not know.
        Loading.__post_init__(self)
        if self.keep is not None and self.keep < 0:
            raise BadConfiguration(f"keep must be 0 or more versions, or None, not {self.keep!r}")

    def set_default_version(self, version: str, reason: str = "") -> None:
        """Send requests without a version to ``version`` from now on.

        A canary or shadow that becomes the default leaves the split.

        Raises
        ------
        UnknownVersion
            It is not loaded.
        BadConfiguration
            It is quarantined.
        """
        change = self._change(lambda table: table.with_default(version), "default", version, reason)
        self._tell(*change, reason)
        self._tidy()

    def route(
        self,
        *,
        canary: Mapping[str, float] | None = None,
        variants: Variants | None = None,
        shadow: Shadows = (),
        salt: str | None = None,
        overrides: Overrides | None = None,
        cohorts: Cohorts | None = None,
        reason: str = "",
    ) -> None:
        """Replace the split of traffic; ``route()`` sends everything to the default.

        Parameters
        ----------
        canary
            Share of unpinned requests, 0..1, by version; at most 1 in all, variants included.
        variants
            Arms of an experiment: ``{"B": ("v2", 0.5)}`` sends half of the requests to v2 and
            calls them B.  Any loaded version may stand behind an arm, the default too.
        shadow
            Versions that answer copies of the default's requests, or the share of them that
            is copied: ``{"v3": 0.1}``.
        salt
            Text that decides which keys are in an arm; the server's name by default.
            Splits with different versions, arms or salts are independent of each other.
        overrides
            Version by value by header: ``{"x-arm": {"canary": "v2"}}``.  None leaves those that
            are set, ``{}`` ends them.
        cohorts
            Keys that get a version whatever the shares say: ``{"staff": ("v2", ["ann"])}``.
            None leaves those that are set, ``{}`` ends them.

        Raises
        ------
        UnknownVersion
            A version is not loaded.
        BadConfiguration
            No default, a quarantined version, or shares that are none.

        Examples
        --------
        >>> from prodml.serving import VersionedModelServer
        >>> server = VersionedModelServer()
        >>> for version in ("v1", "v2"):
        ...     server.load_model(version, lambda features, version=version: version)
        >>> server.set_default_version("v1")
        >>> server.route(canary={"v2": 0.25}, cohorts={"staff": ("v2", ["kim"])})
        >>> [server.predict({}, key=user) for user in ("kim", "lea", "cat", "max", "cat")]
        ['v2', 'v1', 'v2', 'v1', 'v2']
        """
        salted = self.name if salt is None else salt

        def routed(table: Table) -> Table:
            traffic = table.traffic.with_shares(canary or {}, variants or {}, shadow, salted)
            return table.with_traffic(traffic.with_overrides(overrides, cohorts))

        change = self._change(routed, "routed", "", reason)
        self._tell(*change, reason)

    def rollback(self, version: str | None = None, *, reason: str = "") -> str | None:
        """Take a bad version out of traffic at once and quarantine it.

        Parameters
        ----------
        version
            Which; by default the canaries and variants if there are any, else the default.
            Naming one makes the call safe to repeat.
        reason
            For the history and the facts.

        Returns
        -------
        str or None
            The default version now: if the default was the bad one, the last default
            before it that is still loaded and not quarantined.

        Raises
        ------
        BadConfiguration
            There is no earlier default to return to; nothing has changed.
        """
        at = self.clock.time()

        def back(table: Table) -> Table:
            for bad in (version,) if version is not None else table.suspects():
                before, table = table, table.rolled_back(bad, reason)
                if table is not before:
                    table = table.note(at, "rolled back", bad, reason)
            return table

        old, new = self._swap(back)
        self._tell(old, new, reason)
        return new.default

    def release(self, version: str, reason: str = "") -> None:
        """Lift the quarantine of ``version``, which may then be routed to again."""
        self._change(lambda table: table.released(version), "released", version, reason)

    def apply_routing(self, data: Mapping[str, Any], *, reason: str = "") -> None:
        """Install routing that :meth:`Board.routing` has told, here or in another process.

        One change of the table: requests see the old routing or all of the new one.

        Raises
        ------
        UnknownVersion
            A version that is to get traffic is not loaded here; nothing has changed.
        BadConfiguration
            The data is no routing, or sends traffic to a version in quarantine; nothing has
            changed.

        Examples
        --------
        >>> one, other = Versions(name="churn"), Versions(name="churn")
        >>> for worker in (one, other):
        ...     worker.load_model("v1", abs)
        >>> one.set_default_version("v1")
        >>> other.apply_routing(one.routing(), reason="as in the other process")
        >>> other.default_version
        'v1'
        """
        change = self._change(lambda table: with_data(table, data), "applied", "", reason)
        self._tell(*change, reason)
        self._tidy()

    # -- inside -------------------------------------------------------------------------

    def _tell(self, old: Table, new: Table, reason: str) -> None:
        """State what differs between two tables; never under the lock."""
        at, source = self.clock.time(), self.name
        facts: list[Event] = []
        for bad in [v for v in new.quarantined if v not in old.quarantined]:
            facts.append(VersionQuarantined(at=at, source=source, version=bad, reason=reason))
            if old.serves(bad) and new.default is not None:
                facts.append(
                    RolledBack(at=at, source=source, old=bad, new=new.default, reason=reason)
                )
        if new.default is not None and new.default != old.default:
            facts.append(
                DefaultVersionChanged(
                    at=at, source=source, old=old.default, new=new.default, reason=reason
                )
            )
        if new.traffic != old.traffic:
            facts.append(
                TrafficRouted(
                    at=at,
                    source=source,
                    canary=dict(new.traffic.canary),
                    shadow=tuple(new.traffic.shadow),
                    traffic=str(new.traffic),
                )
            )
        for fact in facts:
            self.events.emit(fact)

    def _tidy(self) -> None:
        """Unload earlier defaults beyond those that are kept, behind everybody's back."""
        if self.keep is not None:
            for version in _spare(self._table, self.keep):
                try:
                    WORKERS.submit(self._retire, (version,), {})
                except (RuntimeError, Rejected):
                    # No thread is to be had: the next change of the default tries again.
                    _LOG.warning("%s has not retired version %r", self.name, version, exc_info=True)

    def _retire(self, version: str) -> None:
        try:
            self.unload_model(version, timeout=None)
        except Exception:
            # It has been routed to again, somebody else was faster, or its close failed.
            _LOG.info("%s has not retired version %r", self.name, version, exc_info=True)


def _spare(table: Table, keep: int) -> tuple[str, ...]:
    """Earlier defaults without a part in traffic, beyond the last ``keep`` of them."""
    back = list(dict.fromkeys(v for v in reversed(table.past) if v != table.default))
    return tuple(v for v in back[keep:] if v in table.slots and not table.serves(v))
