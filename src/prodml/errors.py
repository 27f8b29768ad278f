"""Every error of the house.

::

    ProdmlError
     +-- Rejected                       on purpose, the model was not called
     |    +-- CircuitOpen               the breaker is open     .retry_after .reason
     |    +-- BulkheadFull              too many calls in flight    .waiting .waited
     |    +-- RateLimited               too many calls per second      .retry_after
     |    +-- Overloaded                too much waits already      .wait .retry_after
     |    +-- DeadlineExceeded          no time left (TimeoutError)    .seconds
     |    |    +-- DrainTimeout         requests would not end        .in_flight
     |    +-- InvalidFeatures           the caller's fault (ValueError) .violations
     +-- AllFallbacksFailed             every rung failed (ExceptionGroup)
     +-- RejectedAnswer                 the model answered nonsense (ValueError)
     |    +-- GoldenMismatch            known answers came out otherwise .mismatches
     +-- RememberedFailure              the same call has just failed        .kind .text
     +-- UnknownVersion                 no such model version (LookupError)
     |    +-- RetiredVersion            retention has removed its bytes
     +-- UntrustedModel                 nobody trusted has signed or allowed it
     +-- EnvironmentMismatch            registered with other packages  .differences
     +-- StaleFeatures                  features older than allowed    .age
     +-- CorruptRecord                  stored bytes are not what was written
     +-- StoreUnavailable               a store or server does not answer (ConnectionError)
     +-- Conflict                       somebody else changed it first
     +-- LeaseLost                      the fencing token is no longer the newest
     +-- JobFailed                      a training ended without a model
     |    +-- ChallengerRejected        its gates refused the challenger
     +-- BadConfiguration               while building or retuning, never while serving (ValueError)
     +-- ContractBroken                 raised by prodml.testing (AssertionError)

Whose fault it is shows in the branch.  All constructor arguments go up to
``BaseException.args``, so every error pickles; ``__str__`` makes the sentence.
Exceptions of the user's own code pass through untouched.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, cast

__all__ = [
    "AllFallbacksFailed",
    "BadConfiguration",
    "BulkheadFull",
    "ChallengerRejected",
    "CircuitOpen",
    "Conflict",
    "ContractBroken",
    "CorruptRecord",
    "DeadlineExceeded",
    "DrainTimeout",
    "EnvironmentMismatch",
    "GoldenMismatch",
    "InvalidFeatures",
    "JobFailed",
    "LeaseLost",
    "Overloaded",
    "ProdmlError",
    "RateLimited",
    "Rejected",
    "RejectedAnswer",
    "RememberedFailure",
    "RetiredVersion",
    "StaleFeatures",
    "StoreUnavailable",
    "UnknownVersion",
    "UntrustedModel",
]


class ProdmlError(Exception):
    """Root of every error that prodml raises on its own account."""


class Rejected(ProdmlError):
    """A call was refused on purpose; the model was not called.

    Policies never retry a rejection and never count it as the model's failure.
    """


class CircuitOpen(Rejected):
    """The circuit breaker ``name`` is open.

    Parameters
    ----------
    name
        The breaker.
    retry_after
        Seconds until the breaker admits a trial call, >= 0.
    reason
        Why it is open, the kind of the last failure included.

    Examples
    --------
    >>> error = CircuitOpen("db", 30.0, "5 failures in a row, the last: TimeoutError")
    >>> error.name, error.retry_after
    ('db', 30.0)
    """

    # An open breaker raises this on every call, so it is built by C alone: what was given
    # is kept in ``args``, and read from there when somebody asks.
    if TYPE_CHECKING:

        def __init__(self, name: str, retry_after: float, reason: str = "") -> None: ...

    @property
    def name(self) -> str:
        """Name of the breaker."""
        return cast("str", self.args[0])

    @property
    def retry_after(self) -> float:
        """Seconds until a trial call is admitted."""
        return cast("float", self.args[1])

    @property
    def reason(self) -> str:
        """Why the breaker is open; empty if it was not said."""
        return cast("str", self.args[2]) if len(self.args) > 2 else ""

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"circuit {self.name!r} is open{why}; next trial call in {self.retry_after:.3g} s"


class BulkheadFull(Rejected):
    """Bulkhead ``name`` has all its ``limit`` places taken.

    Parameters
    ----------
    name, limit
        The bulkhead, and how many calls it admits at once.
    waiting
        Calls in the queue at that moment.
    waited
        Seconds that this call has waited in vain; None when it was not let into the queue.

    Examples
    --------
    >>> print(BulkheadFull("gpu", 2, 8))
    bulkhead 'gpu' is full: 2 calls in flight, 8 waiting
    >>> print(BulkheadFull("gpu", 2, 7, 0.5))
    bulkhead 'gpu' is full: 2 calls in flight, no place within 0.5 s
    """

    def __init__(
        self, name: str, limit: int, waiting: int = 0, waited: float | None = None
    ) -> None:
        super().__init__(name, limit, waiting, waited)
        self.name: str = name
        self.limit: int = limit
        self.waiting: int = waiting
        self.waited: float | None = waited

    def __str__(self) -> str:
        full = f"bulkhead {self.name!r} is full: {self.limit} calls in flight"
        if self.waited is not None:
            return f"{full}, no place within {self.waited:.3g} s"
        return f"{full}, {self.waiting} waiting" if self.waiting else full


class RateLimited(Rejected):
    """Rate limiter ``name`` has no permit left for ``retry_after`` seconds."""

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(name, retry_after)
        self.name: str = name
        self.retry_after: float = retry_after

    def __str__(self) -> str:
        return f"rate limit {self.name!r} reached; next permit in {self.retry_after:.3g} s"


class Overloaded(Rejected):
    """Too much is waiting at ``name`` already.

    Parameters
    ----------
    name
        What is overloaded.
    wait
        Seconds that the call would have waited, as far as is known.
    retry_after
        Seconds until a call would be admitted if no other came meanwhile.
    waiting
        Rows in the queue at that moment.
    budget
        Seconds that a call may wait; None when the queue was full.

    Examples
    --------
    >>> print(Overloaded("churn", 0.08, 0.06, 412, 0.02))
    churn is overloaded: 412 rows waiting, 0.08 s against a budget of 0.02 s
    >>> print(Overloaded("churn", 0.08, 0.01, 1000))
    churn is overloaded: 1000 rows waiting, the queue is full
    """

    def __init__(
        self,
        name: str,
        wait: float,
        retry_after: float,
        waiting: int = 0,
        budget: float | None = None,
    ) -> None:
        super().__init__(name, wait, retry_after, waiting, budget)
        self.name: str = name
        self.wait: float = wait
        self.retry_after: float = retry_after
        self.waiting: int = waiting
        self.budget: float | None = budget

    def __str__(self) -> str:
        why = "the queue is full"
        if self.budget is not None:
            why = f"{self.wait:.3g} s against a budget of {self.budget:.3g} s"
        return f"{self.name} is overloaded: {self.waiting} rows waiting, {why}"


class DeadlineExceeded(Rejected, TimeoutError):
    """``what`` did not finish, or could not begin, within ``seconds``."""

    def __init__(self, what: str, seconds: float, begun: bool = True) -> None:
        super().__init__(what, seconds, begun)
        self.what: str = what
        self.seconds: float = seconds
        self.begun: bool = begun

    def __str__(self) -> str:
        return f"{self.what} exceeded its {self.seconds:.3g} s"


class DrainTimeout(DeadlineExceeded):
    """Version ``version`` of ``name`` still has ``in_flight`` requests after ``seconds``.

    Examples
    --------
    >>> print(DrainTimeout("churn", "v1", 2, 30.0))
    version 'v1' of churn still has 2 requests in flight after 30 s; it was not unloaded
    """

    def __init__(self, name: str, version: str, in_flight: int, seconds: float) -> None:
        # The parent takes other arguments; those that were given here must pickle.
        ProdmlError.__init__(self, name, version, in_flight, seconds)
        self.what: str = f"unloading version {version!r} of {name}"
        self.seconds: float = seconds
        self.begun: bool = True
        self.name: str = name
        self.version: str = version
        self.in_flight: int = in_flight

    def __str__(self) -> str:
        return (
            f"version {self.version!r} of {self.name} still has {self.in_flight} requests in "
            f"flight after {self.seconds:.3g} s; it was not unloaded"
        )


class InvalidFeatures(Rejected, ValueError):
    """The caller's features break the schema; ``violations`` lists every breach."""

    def __init__(self, violations: Sequence[object]) -> None:
        super().__init__(violations)
        self.violations: tuple[object, ...] = tuple(violations)

    def __str__(self) -> str:
        return "; ".join(str(violation) for violation in self.violations) or "invalid features"


class AllFallbacksFailed(ProdmlError, ExceptionGroup[Exception]):
    """Every way to an answer failed; ``exceptions`` holds each cause in order.

    Caught by ``except ProdmlError`` and split by ``except*``.

    Examples
    --------
    >>> error = AllFallbacksFailed("ladder", [ValueError("a"), KeyError("b")])
    >>> [type(cause).__name__ for cause in error.exceptions]
    ['ValueError', 'KeyError']
    """

    def derive(self, excs: Sequence[Exception], /) -> Self:  # type: ignore[override]
        """Build the part that ``except*`` hands on, of the same type."""
        return type(self)(self.message, excs)


class RejectedAnswer(ProdmlError, ValueError):
    """The model answered, but the answer failed its check (NaN, range, shape)."""

    def __init__(self, reason: str, value: Any = None) -> None:
        super().__init__(reason, value)
        self.reason: str = reason
        self.value: Any = value

    def __str__(self) -> str:
        return f"answer rejected: {self.reason}"


class GoldenMismatch(RejectedAnswer):
    """A model answered golden rows otherwise than it must.

    Parameters
    ----------
    reason
        How many, and the worst of them.
    mismatches
        The ten worst, worst first, each with ``row``, ``expected``, ``answer``, ``apart``.

    Examples
    --------
    >>> GoldenMismatch("3 answers for 4 golden rows", ()).mismatches
    ()
    """

    @property
    def mismatches(self) -> tuple[Any, ...]:
        """The worst rows."""
        return tuple(self.value)


class RememberedFailure(ProdmlError):
    """The same call has just failed, in another process or before, with a ``kind`` of error.

    Parameters
    ----------
    kind, text
        Name of the error's type, and what it said.

    Examples
    --------
    >>> print(RememberedFailure("ValueError", "no such customer"))
    the same call has just failed: ValueError: no such customer
    """

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(kind, text)
        self.kind: str = kind
        self.text: str = text

    def __str__(self) -> str:
        said = f": {self.text}" if self.text else ""
        return f"the same call has just failed: {self.kind}{said}"


class UnknownVersion(ProdmlError, LookupError):
    """``version`` of ``name`` does not exist; ``known`` lists those that do."""

    def __init__(self, name: str, version: str, known: Sequence[str] = ()) -> None:
        super().__init__(name, version, known)
        self.name: str = name
        self.version: str = version
        self.known: tuple[str, ...] = tuple(known)

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"{self.name} has no version {self.version!r}; known: {known}"


class RetiredVersion(UnknownVersion):
    """``version`` of ``name`` was registered once; retention has removed its bytes.

    Examples
    --------
    >>> print(RetiredVersion("churn", "1", ["7", "8"]))
    the bytes of churn@1 were removed by retention; still there: 7, 8
    """

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return (
            f"the bytes of {self.name}@{self.version} were removed by retention; "
            f"still there: {known}"
        )


class UntrustedModel(ProdmlError):
    """The model at ``where`` was not decoded: ``reason``.

    Nobody whose key is trusted has signed it, or it needs types that nobody has allowed.

    Examples
    --------
    >>> print(UntrustedModel("churn@1", "signed by nobody"))
    churn@1 is not trusted: signed by nobody
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where: str = where
        self.reason: str = reason

    def __str__(self) -> str:
        return f"{self.where} is not trusted: {self.reason}"


class EnvironmentMismatch(ProdmlError):
    """The model at ``where`` was registered with other versions; it was not decoded.

    Examples
    --------
    >>> print(EnvironmentMismatch("churn@1", ["numpy 1.26.4, here 2.3.1"]))
    churn@1 was registered with numpy 1.26.4, here 2.3.1
    """

    def __init__(self, where: str, differences: Sequence[str]) -> None:
        super().__init__(where, differences)
        self.where: str = where
        self.differences: tuple[str, ...] = tuple(differences)

    def __str__(self) -> str:
        return f"{self.where} was registered with {'; '.join(self.differences)}"


class StaleFeatures(ProdmlError):
    """Feature ``name`` is ``age`` seconds old; at most ``limit`` is allowed."""

    def __init__(self, name: str, age: float, limit: float) -> None:
        super().__init__(name, age, limit)
        self.name: str = name
        self.age: float = age
        self.limit: float = limit

    def __str__(self) -> str:
        return f"feature {self.name!r} is {self.age:.3g} s old; at most {self.limit:.3g} s allowed"


class CorruptRecord(ProdmlError):
    """Stored bytes at ``where`` are not what was written: ``reason``."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where: str = where
        self.reason: str = reason

    def __str__(self) -> str:
        return f"corrupt record at {self.where}: {self.reason}"


class StoreUnavailable(ProdmlError, ConnectionError):
    """The store at ``where`` does not answer: ``reason``."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where: str = where
        self.reason: str = reason

    def __str__(self) -> str:
        return f"store {self.where} is unavailable: {self.reason}"


class Conflict(ProdmlError):
    """``key`` was changed by somebody else: expected revision ``expected``, found ``found``."""

    def __init__(self, key: str, expected: object, found: object) -> None:
        super().__init__(key, expected, found)
        self.key: str = key
        self.expected: object = expected
        self.found: object = found

    def __str__(self) -> str:
        return f"{self.key!r} changed: expected {self.expected!r}, found {self.found!r}"


class LeaseLost(ProdmlError):
    """Lease ``name`` is no longer held under fencing token ``token``."""

    def __init__(self, name: str, token: int) -> None:
        super().__init__(name, token)
        self.name: str = name
        self.token: int = token

    def __str__(self) -> str:
        return f"lease {self.name!r} with token {self.token} was lost"


class JobFailed(ProdmlError):
    """Job ``job`` has no model: ``reason``.  The cause, if any, is chained.

    Examples
    --------
    >>> str(JobFailed("fraud-1", "cancelled"))
    'job fraud-1 has no model: cancelled'
    """

    def __init__(self, job: str, reason: str) -> None:
        super().__init__(job, reason)
        self.job: str = job
        self.reason: str = reason

    def __str__(self) -> str:
        return f"job {self.job} has no model: {self.reason}"


class ChallengerRejected(JobFailed):
    """The gates refused the challenger of job ``job``.

    Examples
    --------
    >>> issubclass(ChallengerRejected, JobFailed)
    True
    """

    def __str__(self) -> str:
        return f"the challenger of job {self.job} was refused: {self.reason}"


class BadConfiguration(ProdmlError, ValueError):
    """A setting makes no sense.  Raised while building or retuning, never while serving."""


class ContractBroken(ProdmlError, AssertionError):
    """A component breaks the contract of its shape; raised by ``prodml.testing`` only."""
