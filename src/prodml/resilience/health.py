"""Whether this process can answer, read off what its policies know already."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias, final

from prodml._call import Flow, Guard, Kind, kind_of
from prodml.errors import BadConfiguration
from prodml.types import MISS

__all__ = ["Health", "HealthReport", "HealthStatus", "PartHealth"]


class HealthStatus(Enum):
    """How well something can answer; READY is best.

    Examples
    --------
    >>> HealthStatus("degraded") is HealthStatus.DEGRADED
    True
    """

    READY = "ready"
    DEGRADED = "degraded"
    DOWN = "down"


_READY, _DEGRADED, _DOWN = HealthStatus
_RANK: Mapping[HealthStatus, int] = {status: rank for rank, status in enumerate(HealthStatus)}


@dataclass(frozen=True, slots=True)
class PartHealth:
    """How one part is.

    Parameters
    ----------
    status
        How well the part can answer, taken by itself.
    required
        Whether nothing can be answered without it.
    reason
        Why it is not ready; empty if it is.
    details
        What the part says about itself; plain values.

    Examples
    --------
    >>> PartHealth("db", HealthStatus.READY).required
    True
    """

    name: str
    status: HealthStatus
    required: bool = True
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {
            "name": self.name,
            "status": self.status.value,
            "required": self.required,
            "reason": self.reason,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How a process was when it was asked.

    Parameters
    ----------
    status
        The worst of the parts, where an optional part that is down only degrades.
    parts
        Every part, in the order in which they were given.

    Examples
    --------
    >>> report = HealthReport(HealthStatus.DEGRADED)
    >>> report.live, report.ready, report.http_status
    (True, True, 200)
    """

    status: HealthStatus
    parts: tuple[PartHealth, ...] = ()

    @property
    def live(self) -> bool:
        """Whether the process works: always True, because it has answered.

        It never depends on a dependency: to restart this process heals no other one.
        """
        return True

    @property
    def ready(self) -> bool:
        """Whether requests can be answered, be it degraded."""
        return self.status is not _DOWN

    @property
    def http_status(self) -> int:
        """What a readiness endpoint should answer: 200, or 503 when down."""
        return 200 if self.ready else 503

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON.

        Examples
        --------
        >>> HealthReport(HealthStatus.READY).to_dict()
        {'status': 'ready', 'live': True, 'ready': True, 'parts': []}
        """
        return {
            "status": self.status.value,
            "live": self.live,
            "ready": self.ready,
            "parts": [part.to_dict() for part in self.parts],
        }


@final
@dataclass(slots=True, init=False, eq=False)
class Health:
    """Liveness, readiness and degradation, derived from policies that are there anyway.

    Nothing is called to find out: a breaker knows from the traffic whether its dependency
    works, a chain which of its rungs can answer.  Asking admits no call, changes no state
    and waits for nobody, so a probe may ask as often as it likes.

    ==============  ========================  ====================  =====================
    part            ready                     degraded              down
    ==============  ========================  ====================  =====================
    CircuitBreaker  closed, disabled, shadow  half open             open, forced open
    FallbackChain   its first rung is ready   a lower rung or the   no rung can answer,
                                              default can answer    and no default
    Bulkhead, ...   there is a place          full                  --
    a function      truthy, or None           --                    falsy, or raises
    ==============  ========================  ====================  =====================

    Parameters
    ----------
    *parts
        What nothing can be answered without: a :class:`CircuitBreaker`, a
        :class:`FallbackChain`, anything with ``in_flight`` and ``limit``
        (:class:`Bulkhead`, :class:`AdaptiveLimiter`), or a plain function without
        arguments that looks at something in memory.  A function may also answer with a
        :class:`HealthStatus`.
    optional
        Parts without which answers are worse, but are answers.

    Raises
    ------
    BadConfiguration
        A part that says nothing about health, or two of one name.

    Notes
    -----
    Half open is degraded, not down: a breaker that is to see trial calls needs traffic, and
    a process that is not ready gets none.  Full is degraded, not down: to take a busy
    process out of the rotation makes the others busier.

    A part that raises while it is asked is down, and says so; nothing is propagated.

    If every replica asks the same dependency, a *required* breaker takes all of them out at
    once, which is worse than an error for some.  Require what this process alone cannot do
    without; for the rest there is a fallback chain [1]_.

    Examples
    --------
    >>> from prodml.resilience import Bulkhead, CircuitBreaker
    >>> breaker = CircuitBreaker("features")
    >>> health = Health(Bulkhead(8, name="gpu"), optional=[breaker])
    >>> health.report().status
    <HealthStatus.READY: 'ready'>
    >>> breaker.force_open("INC-42")
    >>> report = health.report()
    >>> report.status, report.ready, report.parts[1].reason
    (<HealthStatus.DEGRADED: 'degraded'>, True, 'open: INC-42')

    References
    ----------
    .. [1] Yanacek (2019), "Implementing health checks", Amazon Builders' Library.
    """

    parts: tuple[Any, ...]
    optional: tuple[Any, ...]
    _asked: tuple["_Part", ...]

    def __init__(self, *parts: Any, optional: Iterable[Any] = ()) -> None:
        self.parts = parts
        self.optional = tuple(optional)
        self._asked = (
            *(_Part(part, required=True) for part in parts),
            *(_Part(part, required=False) for part in self.optional),
        )
        names = [part.name for part in self._asked]
        if len(set(names)) < len(names):
            raise BadConfiguration(f"parts must have different names: {', '.join(names)}")

    def report(self) -> HealthReport:
        """Ask every part how it is."""
        parts = tuple(part.asked() for part in self._asked)
        return HealthReport(_worst(_weighed(part) for part in parts), parts)


def _weighed(part: PartHealth) -> HealthStatus:
    return _DEGRADED if part.status is _DOWN and not part.required else part.status


def _worst(statuses: Iterable[HealthStatus]) -> HealthStatus:
    return max(statuses, key=_RANK.__getitem__, default=_READY)


# -- parts --------------------------------------------------------------------------------

_Judgement: TypeAlias = tuple[HealthStatus, str, dict[str, Any]]


class _Part:
    """A part, its name, and how to find out about it."""

    __slots__: tuple[str, ...] = ("judge", "name", "part", "required")

    def __init__(self, part: Any, *, required: bool) -> None:
        self.part: Any = part
        self.required: bool = required
        self.judge: Callable[[Any], _Judgement] = _judge_of(part)
        named = getattr(part, "name", None) or getattr(part, "__name__", None)
        self.name: str = str(named or type(part).__name__)

    def asked(self) -> PartHealth:
        try:
            status, reason, details = self.judge(self.part)
        except Exception as error:
            status, reason, details = _DOWN, f"not to be asked: {error!r}", {}
        return PartHealth(self.name, status, self.required, reason, details)


def _judge_of(part: Any) -> Callable[[Any], _Judgement]:
    judge = _known(part)
    if judge is not None:
        return judge
    a_function = callable(part) and not isinstance(part, type | Guard | Flow)
    if a_function and kind_of(part) is Kind.PLAIN:
        return _function
    raise BadConfiguration(
        f"health is read off breakers, fallback chains, what has in_flight and limit, and plain "
        f"functions, not {part!r}"
    )


def _known(part: Any) -> Callable[[Any], _Judgement] | None:
    """By what it can say, not by its class: a user's own guard may say it too."""
    if isinstance(part, type):
        return None
    if _says(part, "rungs", "default"):
        return _chain
    if _says(part, "snapshot"):
        return _breaker
    return _limiter if _says(part, "in_flight", "limit") else None


def _says(part: Any, *names: str) -> bool:
    # Statically: to ask a property now would be to ask too early, and it may raise.
    return all(inspect.getattr_static(part, name, _NOTHING) is not _NOTHING for name in names)


_NOTHING = object()


def _breaker(breaker: Any) -> _Judgement:
    seen = breaker.snapshot()
    details = {"state": seen.state.value, "mode": seen.mode, "retry_after": _json(seen.retry_after)}
    if seen.mode in {"disabled", "shadow"}:
        return _READY, "", details
    status = _BY_STATE[seen.state.value]
    return status, "" if status is _READY else f"{_SAID[status]}: {seen.reason}", details


_BY_STATE: Mapping[str, HealthStatus] = {
    "closed": _READY,
    "half_open": _DEGRADED,
    "open": _DOWN,
}
_SAID: Mapping[HealthStatus, str] = {_DEGRADED: "half open", _DOWN: "open"}


def _limiter(limiter: Any) -> _Judgement:
    in_flight, limit = limiter.in_flight, limiter.limit
    details = {"in_flight": in_flight, "limit": limit}
    if in_flight < limit:
        return _READY, "", details
    return _DEGRADED, f"full: {in_flight} calls in flight", details


def _function(function: Callable[[], object]) -> _Judgement:
    said = function()
    if isinstance(said, HealthStatus):
        return said, "" if said is _READY else "it says so", {}
    if said is None or said:
        return _READY, "", {}
    return _DOWN, "it says no", {}


def _chain(chain: Any) -> _Judgement:
    judged = {rung.name: _rung(rung) for rung in chain.rungs}
    first = next(iter(judged), "")
    if chain.default is not MISS:
        judged["default"] = _READY, ""
    counts = chain.stats()
    details = {
        name: {
            "status": status.value,
            "reason": why,
            "answered": counts[name].answered,
            "failed": counts[name].failed,
            "skipped": counts[name].skipped,
        }
        for name, (status, why) in judged.items()
    }
    if first and judged[first][0] is _READY:
        return _READY, "", details
    able = [name for name, (status, _) in judged.items() if status is not _DOWN]
    said = [f"answers come from {able[0]!r}" if able else "no rung can answer"]
    said += [f"{name!r} is {why}" for name, (_, why) in judged.items() if why]
    return _DEGRADED if able else _DOWN, "; ".join(said), details


def _rung(rung: Any) -> tuple[HealthStatus, str]:
    """Status of one rung; with nothing before it nothing is known against it."""
    judge = None if rung.breaker is None else _known(rung.breaker)
    if judge is None:
        return _READY, ""
    try:
        status, reason, _ = judge(rung.breaker)
    except Exception as error:
        return _DOWN, f"not to be asked: {error!r}"
    return status, reason


def _json(number: float) -> float | None:
    """JSON knows no infinity."""
    return number if math.isfinite(number) else None
