import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prodml.recording.codec import decode, plain, revive, to_json
from prodml.recording.encoder import Encoder

numbers = st.integers() | st.floats() | st.booleans()
of_numpy = st.floats().map(np.float64) | st.floats(width=32).map(np.float32) | st.just(np.int8(3))
scalars = numbers | of_numpy | st.none() | st.text() | st.binary(max_size=3)
rows = (
    st.dictionaries(st.text(), numbers)
    | st.dictionaries(st.text(), scalars)
    | st.dictionaries(st.text() | st.integers() | st.sampled_from(["$map", "$"]), scalars)
)


@given(st.lists(st.tuples(rows, scalars), min_size=1, max_size=5))
def test_short_way_says_what_the_long_way_says_whatever_came_before(calls):
    encoder = Encoder()
    for features, answer in [*calls, *calls]:
        entry = {"features": features, "prediction": answer}
        written = revive(decode(encoder(entry)))
        spelled = {name: revive(decode(to_json(plain(value)))) for name, value in entry.items()}
        assert repr(written) == repr(spelled)


@given(rows)
def test_metadata_of_any_kind_is_spelled_out(metadata):
    entry = {"features": {}, "prediction": 1, "metadata": metadata}
    written = revive(decode(Encoder()(entry)))["metadata"]
    assert repr(written) == repr(revive(decode(to_json(plain(metadata)))))


def test_entry_is_left_as_it_was():
    entry = {"request_id": "\ud800", "features": {"x": b"ab"}}
    Encoder()(entry)
    assert entry == {"request_id": "\ud800", "features": {"x": b"ab"}}


def test_approximations_of_all_threads_are_counted():
    encoder = Encoder()

    def work():
        for _ in range(200):
            encoder({"features": {"x": object()}})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoder.approximated == 1600


def test_text_that_looks_like_a_repr_is_no_approximation():
    encoder = Encoder()
    encoder({"features": {"x": '{"$repr":'}})
    assert encoder.approximated == 0
