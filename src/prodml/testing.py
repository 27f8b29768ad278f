"""For your tests: a clock you move by hand, a recorder of facts, contracts.

The contract suites are the ones that prodml holds its own components to.  Give
``check_guard`` (and its like) a function that makes a fresh component, and it raises
:class:`~prodml.errors.ContractBroken` with the first broken promise.
"""

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from prodml._call import Flow, Guard, Invoke, Peek, Race, Spawn, Wait
from prodml._machine import Machine
from prodml.errors import BadConfiguration, Conflict, ContractBroken, LeaseLost, UnknownVersion
from prodml.events import Event, Stream
from prodml.stores import DurableStore, SharedStore, Store

__all__ = [
    "ManualClock",
    "Recorder",
    "check_durable_store",
    "check_flow",
    "check_guard",
    "check_machine",
    "check_shared_store",
    "check_sink",
    "check_store",
]

E = TypeVar("E", bound=Event)


class ManualClock:
    """A clock that moves only when told to; sleeping moves it.

    Parameters
    ----------
    start
        First value of :meth:`time`, seconds since the epoch.

    Examples
    --------
    >>> clock = ManualClock()
    >>> before = clock.monotonic()
    >>> clock.advance(30)
    >>> clock.monotonic() - before
    30.0
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._monotonic: float = 1000.0
        self._wall: float = start
        self._lock: threading.Lock = threading.Lock()
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds on the monotonic hand."""
        return self._monotonic

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both hands."""
        if seconds < 0:
            raise BadConfiguration("time does not run backwards: use step_wall to set the clock")
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forwards or backwards, as an operator or NTP does."""
        with self._lock:
            self._wall += seconds

    def sleep(self, seconds: float) -> None:
        """Advance by ``seconds`` at once, and note it in ``slept``."""
        self.slept.append(seconds)
        self.advance(seconds)

    def asleep(self, seconds: float) -> Awaitable[None]:
        """Advance by ``seconds`` and let other tasks run."""
        import asyncio

        self.sleep(seconds)
        return asyncio.sleep(0)


class Recorder:
    """Keeps the facts of a stream in order.

    Examples
    --------
    >>> from prodml.events import CircuitHalfOpened
    >>> stream = Stream()
    >>> recorder = Recorder(stream)
    >>> stream.emit(CircuitHalfOpened(at=0.0, source="db"))
    >>> recorder.names
    ['CircuitHalfOpened']
    """

    def __init__(self, stream: Stream, kind: type[Event] = Event) -> None:
        self.facts: list[Event] = []
        self.stop: Callable[[], None] = stream.subscribe(kind, self.facts.append)

    @property
    def names(self) -> list[str]:
        """Class name of every fact heard."""
        return [type(fact).__name__ for fact in self.facts]

    def of(self, kind: type[E]) -> list[E]:
        """Facts of one class."""
        return [fact for fact in self.facts if isinstance(fact, kind)]


# -- contracts --------------------------------------------------------------------------


def _require(promise: object, message: str) -> None:
    if not promise:
        raise ContractBroken(message)


class _Boom(UnknownVersion):
    """An error that no component can expect."""


class _Gone(BaseException):
    """Ends a call the way a cancellation does."""


def _answer(value: Any, *, scale: int = 1) -> Any:
    """Documented."""
    return value * scale


async def _aanswer(value: Any, *, scale: int = 1) -> Any:
    return value * scale


def _items(count: int) -> Generator[int, None, str]:
    yield from range(count)
    return "end"


async def _aitems(count: int) -> AsyncGenerator[int, None]:
    for item in range(count):
        yield item


def _raise(error: BaseException) -> Any:
    raise error


async def _collect(items: AsyncGenerator[int, None]) -> list[int]:
    return [item async for item in items]


def check_guard(make: Callable[[], Guard[Any]], *, threads: int = 8) -> None:
    """Hold a guard to its contract.

    Results and errors pass untouched in all four kinds of function, in ``call``,
    ``acall``, ``with`` and ``async with``; the signature stays; a guard survives any
    number of abandoned calls; ``threads`` threads may use it at once.

    Raises
    ------
    ContractBroken
        With the first promise that does not hold.

    Examples
    --------
    >>> from prodml.resilience import CircuitBreaker
    >>> check_guard(CircuitBreaker)
    """
    import asyncio

    _check_plain(make())
    _check_generator(make())
    asyncio.run(_check_async(make()))
    _check_abandoned(make())
    _check_threads(make(), threads)


def _check_plain(guard: Guard[Any]) -> None:
    guarded = guard(_answer)
    _require(guarded(21, scale=2) == 42, "a decorated function must return its result")
    _require(guarded("", scale=1) == "", "a falsy result is a result")
    same = inspect.signature(guarded) == inspect.signature(_answer)
    _require(same and guarded.__doc__ == _answer.__doc__, "a decorator must keep the signature")
    _require(guard.call(_answer, 2, scale=3) == 6, "call must return the result")
    with guard as entered:
        _require(entered is guard, "'with guard as g' must give the guard")
    error = _Boom("model", "x")

    def called(raised: BaseException) -> Any:
        return guard.call(_raise, raised)

    for attempt in (guard(_raise), called):
        try:
            attempt(error)
        except _Boom as caught:
            _require(caught is error, "the caller must see the very error that was raised")
        else:
            raise ContractBroken("an error must not be swallowed")


def _check_generator(guard: Guard[Any]) -> None:
    _require(list(guard(_items)(3)) == [0, 1, 2], "a generator's items must pass")
    stream = guard(_items)(3)
    next(stream)
    stream.close()
    _require(list(guard(_items)(1)) == [0], "a closed generator must not block the next")


async def _check_async(guard: Guard[Any]) -> None:
    _require(await guard(_aanswer)(21, scale=2) == 42, "a coroutine's result must pass")
    _require(await guard.acall(_aanswer, 1) == 1, "acall must return the result")
    _require(await _collect(guard(_aitems)(3)) == [0, 1, 2], "async items must pass")
    async with guard:
        pass


def _check_abandoned(guard: Guard[Any]) -> None:
    guarded = guard(_raise)
    for _ in range(100):
        try:
            guarded(_Gone())
        except _Gone:
            continue
        raise ContractBroken("an abandoned call must not be swallowed")
    _require(guard(_answer)(1) == 1, "abandoned calls must give their permits back")


def _check_threads(guard: Guard[Any], threads: int) -> None:
    guarded, barrier = guard(_answer), threading.Barrier(threads)

    def hammer(number: int) -> int:
        barrier.wait()
        return sum(guarded(number) == number for _ in range(100))

    with ThreadPoolExecutor(threads) as pool:
        # One at a time may be a guard's whole purpose, so only what was admitted counts.
        for future in [pool.submit(hammer, number) for number in range(threads)]:
            error = future.exception()
            own = error is None or type(error).__module__.startswith("prodml.")
            _require(own, f"threads broke the guard: {error!r}")
    _require(guarded(1) == 1, "after the threads the guard must admit calls again")


def check_flow(make: Callable[[], Flow]) -> None:
    """Hold a flow to its contract.

    Results, falsy ones too, pass in all four kinds of function; cancellation is never
    swallowed or repeated; the signature stays; steps are of the known kinds.

    Raises
    ------
    ContractBroken
        With the first promise that does not hold.

    Examples
    --------
    >>> from prodml.resilience import Retry
    >>> check_flow(Retry)
    """
    import asyncio

    flow = make()
    flowing = flow(_answer)
    _require(flowing(21, scale=2) == 42, "a flow must return the result")
    _require(flowing("", scale=1) == "", "a falsy result is a result")
    same = inspect.signature(flowing) == inspect.signature(_answer)
    _require(same, "a decorator must keep the signature")
    _require(flow.call(_answer, 2, scale=3) == 6, "call must return the result")
    _require(list(make()(_items)(3)) == [0, 1, 2], "a generator's items must pass")
    asyncio.run(_check_async_flow(make()))
    _check_cancelled_flow(make())
    _check_steps(make())


async def _check_async_flow(flow: Flow) -> None:
    _require(await flow(_aanswer)(21, scale=2) == 42, "a coroutine's result must pass")
    _require(await flow.acall(_aanswer, 1) == 1, "acall must return the result")
    _require(await _collect(flow(_aitems)(3)) == [0, 1, 2], "async items must pass")


def _check_cancelled_flow(flow: Flow) -> None:
    calls: list[int] = []

    def cancelled() -> None:
        calls.append(1)
        raise _Gone

    try:
        flow(cancelled)()
    except _Gone:
        _require(len(calls) == 1, "an abandoned call must not be repeated")
    else:
        raise ContractBroken("an abandoned call must not be swallowed")


def _check_steps(flow: Flow) -> None:
    answer, steps = flow.start(_answer, (1,), {})
    if isinstance(steps, Peek):
        steps = steps.rest()
    if steps is None:
        _require(answer == 1, "start() must answer what the function would")
        return
    step = next(steps)
    begins = isinstance(step, Invoke | Wait | Race | Spawn)
    _require(begins, f"a flow must begin with a call, not {step!r}")
    steps.close()


def check_store(
    make: Callable[[], Store], *, advance: Callable[[float], None] | None = None
) -> None:
    """Hold a store of bytes to its contract; ``advance(seconds)`` lets its time pass.

    Raises
    ------
    ContractBroken
        With the first promise that does not hold.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> clock = ManualClock()
    >>> check_store(lambda: MemoryStore(clock=clock), advance=clock.advance)
    """
    store = make()
    _require(store.get("absent") is None, "an absent key must be None")
    _require(store.delete("absent") is False, "deleting an absent key must be False")
    for key, value in (("a", b"1"), ("a", b"2"), ("ключ/ñ", b"\x00\xff"), ("empty", b"")):
        store.set(key, value)
        _require(store.get(key) == value, f"what was set must be read back: {key!r}")
    _require(store.delete("a") is True, "deleting a key must be True")
    _require(store.get("a") is None, "a deleted key must be gone")
    store.set("short", b"x", ttl=10.0)
    _require(store.get("short") == b"x", "a key must live until its time is over")
    if advance is not None:
        advance(10.001)
        _require(store.get("short") is None, "a key must be gone when its time is over")
        store.set("short", b"y")
        advance(1000.0)
        _require(store.get("short") == b"y", "setting anew must clear the old time to live")


def check_shared_store(
    make: Callable[[], SharedStore], *, advance: Callable[[float], None]
) -> None:
    """Hold a store that workers share to its contract: revisions and leases.

    Raises
    ------
    ContractBroken
        With the first promise that does not hold.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> clock = ManualClock()
    >>> check_shared_store(lambda: MemoryStore(clock=clock), advance=clock.advance)
    """
    store = make()
    _require(store.read("record") == (None, 0), "a record never written must be (None, 0)")
    first = store.commit("record", b"a", 0)
    _require(store.read("record") == (b"a", first), "a committed record must be read back")
    try:
        store.commit("record", b"b", 0)
    except Conflict:
        _require(store.read("record") == (b"a", first), "a conflict must change nothing")
    else:
        raise ContractBroken("a stale revision must be refused")
    second = store.commit("record", b"\x00\xff", first)
    _require(store.read("record") == (b"\x00\xff", second), "any bytes must be kept")
    _check_leases(store, advance)


def _check_leases(store: SharedStore, advance: Callable[[float], None]) -> None:
    lease = store.acquire("probe", "one", 10.0)
    if lease is None:
        raise ContractBroken("a free lease must be given")
    _require(store.acquire("probe", "two", 10.0) is None, "a held lease must be refused")
    lease = store.renew(lease, 10.0)
    advance(10.001)
    second = store.acquire("probe", "two", 10.0)
    if second is None:
        raise ContractBroken("an expired lease must be given to the next")
    _require(second.token > lease.token, "fencing tokens must grow")
    try:
        store.renew(lease, 10.0)
    except LeaseLost:
        store.release(lease)
    else:
        raise ContractBroken("an old holder must be refused")
    _require(store.acquire("probe", "one", 10.0) is None, "an old holder must not release")
    store.release(second)
    third = store.acquire("probe", "one", 10.0)
    _require(third and third.token > second.token, "a released lease must be given again")


def check_durable_store(
    make: Callable[[], DurableStore], *, advance: Callable[[float], None]
) -> None:
    """Hold a durable store to its contract: revisions, rows, leases.

    Raises
    ------
    ContractBroken
        With the first promise that does not hold.

    Examples
    --------
    >>> from prodml.stores import MemoryStore
    >>> clock = ManualClock()
    >>> check_durable_store(lambda: MemoryStore(clock=clock), advance=clock.advance)
    """
    check_store(make, advance=advance)
    check_shared_store(make, advance=advance)
    _check_rows(make())
    _check_fencing(make(), advance)


def _check_rows(store: DurableStore) -> None:
    first = store.commit("state", b"a", 0, rows=[("facts", b"1"), ("facts", b"2")])
    _require(store.rows("facts") == [(1, b"1"), (2, b"2")], "rows must come in order, from 1")
    try:
        store.commit("state", b"b", 0, rows=[("facts", b"3")])
    except Conflict:
        _require(store.read("state") == (b"a", first), "a conflict must change nothing")
        _require(len(store.rows("facts")) == 2, "a conflict must append nothing")
    else:
        raise ContractBroken("a stale revision must be refused")
    store.append("facts", b"3")
    _require(store.rows("facts", after=1, limit=1) == [(2, b"2")], "after and limit must hold")


def _check_fencing(store: DurableStore, advance: Callable[[float], None]) -> None:
    lease = store.acquire("job", "one", 10.0)
    if lease is None:
        raise ContractBroken("a free lease must be given")
    revision = store.commit("leased", b"a", 0, lease=lease)
    advance(10.001)
    store.acquire("job", "two", 10.0)
    try:
        store.commit("leased", b"b", revision, lease=lease)
    except LeaseLost:
        _require(store.read("leased")[0] == b"a", "a fenced commit must change nothing")
    else:
        raise ContractBroken("an old holder must be refused")


def check_machine(machine: Machine[Any], initial: Any, facts: Sequence[Any]) -> None:
    """Hold a machine to its contract: deterministic, deaf to the unknown, fully drawn.

    Raises
    ------
    ContractBroken
        With the first promise that does not hold.
    """
    once, again = machine.replay(initial, facts), machine.replay(initial, facts)
    _require(once == again, "the same facts must give the same state and commands")
    state, commands = machine.step(initial, object())
    _require(state is initial and not commands, "an unknown fact must change nothing")
    drawn = machine.diagram()
    for row in machine.rows:
        _require(row.phase.name in drawn, f"the diagram must show {row.phase.name}")


def check_sink(handler: Callable[[Any], None], facts: Iterable[Event]) -> None:
    """Hold a listener to its contract: it raises for no fact and leaves it as it was.

    Raises
    ------
    ContractBroken
        With the first promise that does not hold.

    Examples
    --------
    >>> from prodml.events import CircuitHalfOpened
    >>> check_sink([].append, [CircuitHalfOpened(at=0.0, source="db")])
    """
    for fact in facts:
        before = repr(fact)
        try:
            handler(fact)
        except Exception as error:
            raise ContractBroken(f"a listener must not raise: {error!r} for {fact!r}") from error
        _require(repr(fact) == before, f"a listener must not change a fact: {before}")
