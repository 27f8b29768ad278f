"""Who answers, where, and that nobody is left behind: threads, async models, batches, services."""

import asyncio
import contextvars
import threading

import pandas as pd
import pytest

from prodml import PredictionService
from prodml._deadline import remaining
from prodml.errors import BadConfiguration
from prodml.events import ShadowScored, Stream
from prodml.integrations.open_inference import Endpoint, Tabular, open_inference_app
from prodml.serving import MicroBatcher, VersionedModelServer
from tests.open_inference.driver import Driver, Summing, infer, served, tensor

INFER = "/v2/models/m/infer"


class Gate:
    """A model that can be held up, and knows how many are inside."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads = set()
        self.closed = False

    def predict(self, rows):
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.open.wait(20)
        assert not self.closed
        return rows.sum(axis=1)

    def close(self):
        self.closed = True


def test_a_plain_model_answers_in_the_loops_own_thread():
    here = []
    with Driver(
        open_inference_app({"m": lambda rows: here.append(threading.get_ident()) or [1.0]})
    ) as ask:
        ask("POST", INFER, infer())
    assert here == [threading.get_ident()]


def test_threads_answer_side_by_side_and_the_loop_goes_on():
    gate = Gate()
    endpoint = Endpoint(gate, threads=2)

    async def main(ask):
        asked = [asyncio.ensure_future(ask.ask("POST", INFER, infer())) for _ in range(2)]
        for _ in asked:
            await asyncio.to_thread(gate.entered.acquire, timeout=20)
        assert (await ask.ask("GET", "/v2/health/live")).status == 200
        gate.open.set()
        return await asyncio.gather(*asked)

    with Driver(open_inference_app({"m": endpoint})) as ask:
        assert [answer.status for answer in ask.run(main(ask))] == [200, 200]
    assert len(gate.threads) == 2
    endpoint.close()


def test_who_finds_threads_and_queue_full_is_sent_away():
    gate = Gate()
    endpoint = Endpoint(gate, threads=1, max_waiting=1)

    async def main(ask):
        asked = [asyncio.ensure_future(ask.ask("POST", INFER, infer())) for _ in range(2)]
        await asyncio.to_thread(gate.entered.acquire, timeout=20)
        refused = await ask.ask("POST", INFER, infer())
        gate.open.set()
        return refused, await asyncio.gather(*asked), await ask.ask("POST", INFER, infer())

    with Driver(open_inference_app({"m": endpoint})) as ask:
        refused, asked, later = ask.run(main(ask))
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "1 waiting" in refused.error
    assert [answer.status for answer in (*asked, later)] == [200, 200, 200]
    endpoint.close()


def test_a_cancelled_request_keeps_its_version_until_the_thread_is_done():
    gate = Gate()
    server = served("m", v1=gate, v2=Summing())
    endpoint = Endpoint(server, threads=1)

    async def main(ask):
        asked = asyncio.ensure_future(ask.ask("POST", INFER, infer()))
        queued = asyncio.ensure_future(ask.ask("POST", INFER, infer()))
        await asyncio.to_thread(gate.entered.acquire, timeout=20)
        for task in (asked, queued):
            task.cancel()
        await asyncio.gather(asked, queued, return_exceptions=True)
        assert server.in_flight["v1"] == 1
        server.set_default_version("v2")
        gate.open.set()
        await asyncio.to_thread(server.unload_model, "v1", 20.0)

    with Driver(open_inference_app({"m": endpoint})) as ask:
        ask.run(main(ask))
    assert gate.closed
    assert server.in_flight == {"v2": 0}
    endpoint.close()


def test_a_refused_thread_leaves_no_request_behind():
    gate = Gate()
    server = served("m", v1=gate)
    endpoint = Endpoint(server, threads=1, max_waiting=0)

    async def main(ask):
        asked = asyncio.ensure_future(ask.ask("POST", INFER, infer()))
        await asyncio.to_thread(gate.entered.acquire, timeout=20)
        assert (await ask.ask("POST", INFER, infer())).status == 503
        assert server.in_flight == {"v1": 1}
        gate.open.set()
        await asked

    with Driver(open_inference_app({"m": endpoint})) as ask:
        ask.run(main(ask))
    assert server.in_flight == {"v1": 0}
    endpoint.close()


def test_the_context_goes_with_the_request_to_its_thread():
    word = contextvars.ContextVar("word", default="none")
    seen = []
    endpoint = Endpoint(lambda rows: seen.append(word.get()) or [1.0], threads=1)

    async def main(ask):
        word.set("hello")
        await ask.ask("POST", INFER, infer())

    with Driver(open_inference_app({"m": endpoint})) as ask:
        ask.run(main(ask))
    assert seen == ["hello"]
    endpoint.close()


class Async:
    async def predict(self, rows):
        await asyncio.sleep(0)
        return rows.sum(axis=1)


class AsyncRows:
    async def predict(self, row):
        await asyncio.sleep(0)
        return row["a"] + row["b"]


class AsyncBatch(AsyncRows):
    def __init__(self):
        self.asked = []

    async def apredict_batch(self, rows):
        self.asked.append(len(rows))
        return [row["a"] + row["b"] for row in rows]


def test_async_models_are_awaited():
    batch = AsyncBatch()
    app = open_inference_app({"array": Async(), "rows": AsyncRows(), "batch": batch})
    two = infer(tensor([1, 2], (2, 1), name="a"), tensor([3, 4], (2, 1), name="b"))
    with Driver(app) as ask:
        answers = [
            ask("POST", "/v2/models/array/infer", infer()),
            ask("POST", "/v2/models/rows/infer", two),
            ask("POST", "/v2/models/batch/infer", two),
        ]
    assert [answer.json["outputs"][0]["data"] for answer in answers] == [
        [3.0],
        [4.0, 6.0],
        [4.0, 6.0],
    ]
    assert batch.asked == [2]


def test_shadows_hear_of_what_the_application_answers():
    events, heard = Stream(), []
    events.subscribe(ShadowScored, heard.append)
    server = VersionedModelServer(name="m", shadow="inline", events=events)
    for version, factor in (("v1", 1.0), ("v2", 2.0)):
        server.load_model(version, Summing(factor))
    server.set_default_version("v1")
    server.route(shadow=["v2"])
    with Driver(open_inference_app(server)) as ask:
        ask("POST", INFER, infer(tensor([1, 2, 3, 4], (2, 2)), id="r7"))
    assert [(fact.value, fact.stable_value) for fact in heard] == [(6.0, 3.0), (14.0, 7.0)]
    assert {fact.request_id for fact in heard} == {"r7"}


# -- batches ------------------------------------------------------------------------------


class Counting(Summing):
    def __init__(self):
        super().__init__()
        self.asked = []

    def predict(self, rows):
        self.asked.append(rows.shape)
        return super().predict(rows)


def many(app, bodies, path=INFER, method="POST"):
    async def main(ask):
        return await asyncio.gather(*(ask.ask(method, path, body) for body in bodies))

    with Driver(app) as ask:
        return ask.run(main(ask))


def test_requests_that_come_together_are_answered_by_one_call():
    model = Counting()
    app = open_inference_app({"m": model}, batcher={})
    answers = many(app, [infer(tensor([n, 1.0]), id=str(n)) for n in range(40)])
    assert [answer.json["outputs"][0]["data"] for answer in answers] == [
        [n + 1.0] for n in range(40)
    ]
    assert [answer.json["id"] for answer in answers] == [str(n) for n in range(40)]
    assert sum(shape[0] for shape in model.asked) == 40
    assert len(model.asked) <= 3
    assert app.repository["m"].batcher.stats().rows == 40
    metrics = many(app, [b""], "/metrics", "GET")[0].body.decode()
    assert 'prodml_batcher_waiting_rows{model="m"} 0' in metrics
    assert f'prodml_batcher_mean_rows{{model="m"}} {40 / len(model.asked)!r}' in metrics


def test_batches_mix_requests_of_many_rows_and_keep_versions_apart():
    server = served("m", v1=Summing(), v2=Summing(100.0))
    app = open_inference_app(server, batcher={"max_rows": 8})

    async def main(ask):
        bodies = [infer(tensor([n] * 6, (3, 2))) for n in range(10)]
        paths = [INFER, "/v2/models/m/versions/v2/infer"]
        return await asyncio.gather(
            *(ask.ask("POST", paths[n % 2], body) for n, body in enumerate(bodies))
        )

    with Driver(app) as ask:
        answers = ask.run(main(ask))
    for n, answer in enumerate(answers):
        factor, version = ((1.0, "v1"), (100.0, "v2"))[n % 2]
        assert answer.json["model_version"] == version
        assert answer.json["outputs"][0]["data"] == [2.0 * n * factor] * 3


def test_a_row_that_breaks_its_batch_fails_alone():
    def model(rows):
        if (rows < 0).any():
            raise ValueError("negative")
        return rows.sum(axis=1)

    app = open_inference_app({"m": model}, batcher={})
    answers = many(app, [infer(tensor([n, 1.0])) for n in range(-1, 9)])
    assert [answer.status for answer in answers] == [500] + [200] * 9


def test_a_row_of_another_width_fails_alone():
    app = open_inference_app({"m": Summing()}, batcher={})
    bodies = [infer(tensor([1.0] * width, (1, width))) for width in (2, 2, 2, 2)]
    bodies.append(infer(tensor(["x"], (1, 1), "BYTES")))
    statuses = [answer.status for answer in many(app, bodies)]
    assert statuses == [200, 200, 200, 200, 500]


def test_dicts_and_frames_are_batched_too():
    asked = []

    def rows_of_dicts(rows):
        asked.append(type(rows).__name__)
        return [row["a"] * row["b"] for row in rows]

    def frame(frame):
        asked.append(type(frame).__name__)
        return (frame["a"] * frame["b"]).to_numpy()

    class Whole:
        def __init__(self, ask):
            self.predict_batch = ask

        def predict(self, row):
            raise AssertionError("one by one")

    body = infer(tensor([2], (1, 1), name="a"), tensor([3], (1, 1), name="b"))
    for model, rows in ((rows_of_dicts, "auto"), (frame, pd.DataFrame)):
        endpoint = Endpoint(Whole(model), batcher={}, mapping=Tabular(rows=rows))
        answers = many(open_inference_app({"m": endpoint}), [body] * 3)
        assert [answer.json["outputs"][0]["data"] for answer in answers] == [[6.0]] * 3
    assert set(asked) == {"list", "DataFrame"}


def test_frames_without_a_batcher():
    endpoint = Endpoint(lambda frame: frame["a"] + len(frame), mapping=Tabular(rows=pd.DataFrame))
    body = infer(tensor([1, 2], (2,), name="a"), tensor([[1, 2], [3, 4]], (2, 2), name="wide"))
    answers = many(open_inference_app({"m": endpoint}), [body])
    assert answers[0].json["outputs"][0]["data"] == [3.0, 4.0]


def test_a_batcher_of_ones_own_is_used_and_sheds():
    server = served("m")
    batcher = MicroBatcher(server, stack=True, max_queue=1, inline=0.0)
    gate = Gate()
    server.load_model("slow", gate)

    async def main(ask):
        slow = asyncio.ensure_future(ask.ask("POST", "/v2/models/m/versions/slow/infer", infer()))
        await asyncio.to_thread(gate.entered.acquire, timeout=20)
        waiting = asyncio.ensure_future(ask.ask("POST", INFER, infer()))
        await asyncio.sleep(0)
        refused = await ask.ask("POST", INFER, infer())
        gate.open.set()
        return refused, await slow, await waiting, await ask.ask("GET", "/metrics")

    with Driver(open_inference_app(server, batcher=batcher)) as ask:
        refused, slow, waiting, metrics = ask.run(main(ask))
    assert (refused.status, slow.status, waiting.status) == (503, 200, 200)
    assert "overloaded" in refused.error
    assert 'prodml_inference_shed_total{model="m"} 1' in metrics.body.decode()
    assert server.in_flight == {"v1": 0, "slow": 0}


# -- a prediction service -----------------------------------------------------------------


def service(**settings):
    return PredictionService(lambda row: 10 / row["x"], events=Stream(), name="m", **settings)


def column(*values):
    return infer(tensor(values, (len(values), 1), name="x"))


def test_a_prediction_service_answers_with_all_its_stages():
    with Driver(open_inference_app(service(version="v7", fallback=lambda row: -1.0))) as ask:
        answer = ask("POST", INFER, column(2.0, 5.0)).json
        assert (answer["model_name"], answer["model_version"]) == ("m", "v7")
        assert answer["outputs"][0]["data"] == [5.0, 2.0]
        one = ask("POST", INFER, column(4.0)).json
        assert one["outputs"][0]["data"] == [2.5]
        degraded = ask("POST", INFER, column(0.0)).json
        assert "model_version" not in degraded
        assert degraded["outputs"][0]["data"] == [-1.0]


def test_a_row_that_the_service_cannot_answer_fails_the_request():
    with Driver(open_inference_app(service())) as ask:
        assert ask("POST", INFER, column(0.0)).status == 500
        assert ask("POST", INFER, column(1.0, 0.0)).status == 500


def test_the_rows_of_one_request_go_to_one_version_of_a_service():
    server = served("m", v1=lambda row: 1.0, v2=lambda row: 2.0)
    server.route(canary={"v2": 0.5})
    whole = PredictionService(server, events=Stream())
    with Driver(open_inference_app({"m": whole})) as ask:
        answers = [ask("POST", INFER, column(*range(1, 9))).json for _ in range(30)]
    assert all(len(set(answer["outputs"][0]["data"])) == 1 for answer in answers)
    assert {answer["model_version"] for answer in answers} == {"v1", "v2"}


# -- time ---------------------------------------------------------------------------------


def test_the_parameter_timeout_is_the_deadline_of_what_is_below():
    left = []

    async def one_after_the_other(ask):
        # In one task, as behind a middleware: nothing of a request may stay behind.
        for given in ({"timeout": 5_000_000}, {"timeout": 0}, {}):
            await ask.ask("POST", INFER, infer(parameters=given))

    with Driver(open_inference_app({"m": lambda rows: left.append(remaining()) or [1.0]})) as ask:
        ask.run(one_after_the_other(ask))
        for odd in (-1, "1", 1.5, True):
            assert ask("POST", INFER, infer(parameters={"timeout": odd})).status == 400
    assert 4.0 < left[0] <= 5.0
    assert left[1:] == [None, None]


# -- configuration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Endpoint(abs, threads=-1),
        lambda: Endpoint(abs, max_waiting=-1),
        lambda: Endpoint(abs, threads=1, batcher={}),
        lambda: Endpoint(abs, batcher={"max_rows": 0}),
        lambda: Endpoint(PredictionService(abs), batcher={}),
        lambda: Endpoint(3),
        lambda: open_inference_app({"a/b": abs}),
        lambda: open_inference_app({"": abs}),
        lambda: open_inference_app(abs, max_body="much"),
        lambda: Tabular(rows="columns"),
    ],
)
def test_senseless_settings_are_refused(make):
    with pytest.raises(BadConfiguration):
        make()


# -- swaps --------------------------------------------------------------------------------


class Numbered:
    """Answers its own number, and nothing any more once it is closed."""

    def __init__(self, number):
        self.number = number
        self.closed = False

    def predict(self, rows):
        assert not self.closed
        return rows[:, 0] * 0 + self.number

    def close(self):
        self.closed = True


@pytest.mark.parametrize("settings", [{}, {"threads": 3}, {"batcher": {"inline": 0.0}}])
def test_nothing_is_lost_or_mislabelled_while_versions_come_and_go(settings):
    server = served("m", v0=Numbered(0))
    app = open_inference_app(server, **settings)
    over, told = threading.Event(), []

    def swap():
        try:
            for number in range(1, 13):
                while len(told) < number * 20:
                    over.wait(0.0005)
                server.load_model(f"v{number}", Numbered(number))
                server.set_default_version(f"v{number}")
                server.unload_model(f"v{number - 1}", timeout=20.0)
        finally:
            over.set()

    async def client(ask):
        while not over.is_set():
            answer = await ask.ask("POST", INFER, infer())
            # What is kept must not grow into a heap that the collector stops everybody for.
            value = answer.json["outputs"][0]["data"][0] if answer.status == 200 else None
            told.append((answer.status, answer.json.get("model_version"), value))
            # A loop that never rests leaves the other thread five milliseconds a turn.
            await asyncio.sleep(0.001)

    async def main(ask):
        swapping = asyncio.ensure_future(asyncio.to_thread(swap))
        await asyncio.gather(*(client(ask) for _ in range(8)))
        await swapping

    with Driver(app) as ask:
        ask.run(main(ask))
    assert {status for status, _, _ in told} == {200}
    assert all(version == f"v{value:.0f}" for _, version, value in told)
    assert server.versions == ("v12",)
    assert server.in_flight == {"v12": 0}
    app.repository.close()
