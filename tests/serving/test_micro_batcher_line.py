"""The line alone, where the scheduler of the other tests does not reach."""

from prodml._call.turns import ThreadBell
from prodml.serving.batch_line import Line, Request, Turn
from prodml.serving.batch_model import OneModel

ONE = OneModel("line", lambda rows: rows)


def joined(line, *rows):
    request = Request(rows, ONE, None)
    line.join(request, ThreadBell())
    return request


def test_who_worked_for_others_is_woken_like_any_other_when_his_own_turn_comes():
    line = Line()
    first, second = joined(line, "a"), joined(line, "b")
    turn = Turn(0.0)
    assert line.begin(turn, second, 1)
    assert line.settle([first], ["A"]) == [first.bell]
    line.end(turn)
    # He has gone to sleep meanwhile, and a worker takes his row.
    turn = Turn(0.0)
    assert line.begin(turn, None, 1)
    assert line.settle([second], ["B"]) == [second.bell]


def test_who_works_for_himself_is_not_woken():
    line = Line()
    first, second = joined(line, "a"), joined(line, "b")
    turn = Turn(0.0)
    assert line.begin(turn, first, 2)
    assert line.settle([first, second], ["A", "B"]) == [second.bell]


def test_only_who_has_got_the_turn_can_give_it_back():
    line = Line()
    request = joined(line, "a")
    turn, other = Turn(0.0), Turn(0.0)
    assert line.begin(turn, request, 1)
    assert not line.begin(other, request, 1)
    line.end(other)
    assert line.turn is turn
    line.end(turn)
    assert line.turn is None
    assert line.rows == 1


def test_interrupted_while_it_is_taken_nothing_is_lost():
    """At whatever point the taking is broken off, the end puts all back."""

    class Broken(BaseException):
        pass

    class Rows(tuple):  # noqa: SLOT001
        """Breaks off at the nth question for its length."""

        left = 10**9

        def __len__(self):
            Rows.left -= 1
            if Rows.left < 0:
                raise Broken
            return super().__len__()

    for nth in range(12):
        line = Line()
        Rows.left = 10**9
        requests = [Request(Rows("abc"), ONE, None) for _ in range(3)]
        for request in requests:
            line.join(request, ThreadBell())
        turn = Turn(0.0)
        Rows.left = nth
        try:
            line.begin(turn, requests[0], 7)
        except Broken:
            pass
        finally:
            Rows.left = 10**9
            line.end(turn)
        assert list(line.waiting) == requests
        assert line.rows == 9
        assert [request.stop for request in requests] == [0, 0, 0]
        assert line._homes == {None: 3}
