"""Rows of batches under way: who waits takes a seat, and hears of his row and of no other."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context

import pytest

from prodml.cache.boarding import Boarding
from prodml.cache.single_flight import HANDOVER, SingleFlight
from prodml.cache.tiers import Answer


def told(place):
    return Answer(place.decode())


def elsewhere(flights, places):
    """A boarding of somebody who leads nothing in this call."""
    return Context().run(Boarding, flights, places)


def waiting(flights, *places):
    """A boarding of somebody who has come too late to lead ``places``, and their seats."""
    other = elsewhere(flights, places)
    assert other.mine == {}
    return other, [other.wait(place).future for place in places]


@pytest.fixture
def flights():
    return SingleFlight(timeout=30.0)


def test_a_seat_is_settled_when_its_row_lands(flights):
    one = Boarding(flights, [b"a", b"b"])
    _, (a, b) = waiting(flights, b"a", b"b")
    one.land([b"a", b"unknown", None], told)
    assert a.result(0)[0].value == "a"
    assert not b.done()
    assert (list(one.mine), list(flights._flights)) == ([b"b"], [b"b"])
    one.leave()
    assert b.result(0) is HANDOVER
    assert len(flights) == 0


def test_who_comes_for_a_seat_after_the_landing_is_told_at_once(flights):
    one = Boarding(flights, [b"a", b"b"])
    late = elsewhere(flights, [b"a", b"b"])
    one.land([b"a"], told)
    assert late.wait(b"a").future.result(0)[0].value == "a"
    one.leave()
    assert late.wait(b"b").future.result(0) is HANDOVER
    assert late.wait(b"a").future is late.wait(b"a").future


def test_a_failure_is_told_to_those_who_would_compute_all_that_failed(flights):
    one = Boarding(flights, [b"a", b"b"])
    same, (a, _) = waiting(flights, b"a", b"b")
    fewer, (only,) = waiting(flights, b"a")
    error = ValueError("no")
    one.fail(error)
    assert same.judged(b"a", a.result(0)) == (None, error)
    assert fewer.judged(b"a", only.result(0)) == (None, None)


def test_leaving_twice_is_leaving_once(flights):
    one = Boarding(flights, [b"a"])
    one.leave()
    another = Boarding(flights, [b"a"])
    one.leave()
    assert list(flights._flights) == [b"a"]
    another.leave()


def test_every_seat_is_settled_however_landing_and_coming_are_mixed(flights):
    places = [b"%d" % number for number in range(200)]
    for _ in range(20):
        one, begun = Boarding(flights, places), threading.Barrier(5)

        def ask(places=places, begun=begun):
            other = Boarding(flights, places)
            begun.wait()
            seats = {place: other.wait(place).future for place in other.theirs}
            heard = [seat.result(10) for seat in seats.values()]
            other.leave()
            assert all(
                landed is HANDOVER or landed[0].value == place.decode()
                for place, landed in zip(seats, heard, strict=True)
            )
            return sum(landed is not HANDOVER for landed in heard), len(seats)

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask) for _ in range(4)]
            begun.wait()
            one.land(places[:100], told)
            one.land(places[100:150], told)
            one.leave()
            # All had a place before anything landed, and 150 of those have landed.
            assert [future.result(20) for future in asked] == [(150, 200)] * 4
        assert len(flights) == 0
