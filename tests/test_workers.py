import contextvars
import os
import threading

import pytest

from prodml._workers import Workers
from prodml.errors import BulkheadFull, DeadlineExceeded

VARIABLE = contextvars.ContextVar("variable", default="unset")


def test_context_variables_go_with_the_call():
    VARIABLE.set("request 7")
    assert Workers().run(VARIABLE.get, (), {}, 5.0) == "request 7"


def test_an_idle_thread_is_used_again():
    workers = Workers()
    first = workers.run(threading.get_ident, (), {}, 5.0)
    while not workers._idle:
        pass
    assert workers.run(threading.get_ident, (), {}, 5.0) == first


def test_hung_calls_never_starve_healthy_ones():
    workers, release = Workers(max_idle=1), threading.Event()
    for _ in range(5):
        with pytest.raises(DeadlineExceeded, match="wait"):
            workers.run(release.wait, (), {}, 0.0)
    assert workers.abandoned == 5
    assert workers.run(len, ("abc",), {}, 5.0) == 3
    release.set()


def test_returning_hung_calls_are_struck_off():
    workers, release = Workers(), threading.Event()
    job = workers.submit(release.wait, (), {})
    assert workers.abandon(job)
    assert not workers.abandon(job)
    release.set()
    job.future.result(5.0)
    while workers.abandoned:
        pass
    assert not workers.abandon(job)


def test_too_many_hung_calls_of_one_function_are_refused_and_of_no_other():
    workers, release = Workers(max_abandoned=2), threading.Event()
    for _ in range(2):
        workers.abandon(workers.submit(release.wait, (), {}))
    with pytest.raises(BulkheadFull):
        workers.run(release.wait, (0.0,), {}, 5.0)
    assert workers.run(len, ("x",), {}, 5.0) == 1
    release.set()
    while workers.abandoned:
        pass
    assert workers.run(release.wait, (), {}, 5.0)
    assert workers._hung == {}


def test_there_is_an_end_to_hung_calls_of_all_functions_together():
    workers, release = Workers(max_threads=2), threading.Event()
    for hung in (lambda: release.wait(), lambda: release.wait()):
        workers.abandon(workers.submit(hung, (), {}))
    with pytest.raises(BulkheadFull):
        workers.run(len, ("x",), {}, 5.0)
    release.set()


def test_a_function_that_cannot_be_hashed_will_do():
    class Unhashable(list):
        def __call__(self):
            return len(self)

    assert Workers().run(Unhashable("abc"), (), {}, 5.0) == 3


def test_a_stop_iteration_of_a_job_reaches_who_waits():
    job = Workers().submit(next, (iter(()),), {})
    with pytest.raises(RuntimeError, match="StopIteration"):
        job.future.result(5.0)


def test_errors_and_keyword_arguments_pass():
    workers = Workers()
    assert workers.run(int, ("ff",), {"base": 16}, 5.0) == 255
    with pytest.raises(ValueError):
        workers.run(int, ("x",), {}, 5.0)
    with pytest.raises(TimeoutError, match="callee"):
        workers.run(raise_timeout, (), {}, 5.0)


def raise_timeout():
    raise TimeoutError("of the callee")


def test_at_most_max_idle_threads_stay():
    workers, release = Workers(max_idle=1), threading.Event()
    jobs = [workers.submit(release.wait, (), {}) for _ in range(4)]
    release.set()
    for job in jobs:
        job.future.result(5.0)
    assert len(workers._idle) <= 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_with_threads_of_its_own():
    from prodml._workers import WORKERS

    WORKERS.run(len, ("x",), {}, 5.0)
    child = os.fork()
    if child == 0:
        os._exit(0 if WORKERS.run(len, ("abc",), {}, 5.0) == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_failed_job_is_collected_without_the_collector():
    import gc
    import weakref

    class Thing:
        pass

    def fail(thing):
        raise ValueError(thing)

    gc.disable()
    try:
        for how in ("submit", "run"):
            thing, workers = Thing(), Workers()
            gone = weakref.ref(thing)
            if how == "run":
                with pytest.raises(ValueError):
                    workers.run(fail, (thing,), {}, 5.0)
            else:
                job = workers.submit(fail, (thing,), {})
                assert isinstance(job.future.exception(5.0), ValueError)
                del job
            del thing
            # The worker lets go of the call just after its caller goes on.
            for _ in range(1000):
                if gone() is None:
                    break
                threading.Event().wait(0.005)
            assert gone() is None
    finally:
        gc.enable()
