import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prodml.cache.arguments import NO_EXTRA, Arguments, function_id
from prodml.errors import BadConfiguration

ROW = {"a": 1}


def lecture(features, model_version):
    return features


def threshold(features, model_version, *more, cut=0.5, **rest):
    return features


class Model:
    def predict(self, features):
        return features

    def __call__(self, features):
        return features


def _reads(fn, *args, **kwargs):
    return Arguments(fn, versioned=False).read(args, kwargs)


def test_a_function_of_a_module_is_named_by_module_and_name():
    assert function_id(lecture) == f"{__name__}.lecture"
    assert function_id(json.dumps) == "json.dumps"
    assert function_id(functools.wraps(lecture)(lambda *a: lecture(*a))) == f"{__name__}.lecture"


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda x: x,
        lambda: functools.partial(lecture, model_version="v1"),
        lambda: Model().predict,
        lambda: [].append,
        Model,
    ],
)
def test_what_has_no_name_of_its_own_gets_one_that_nothing_else_has(make):
    one, other = make(), make()
    assert function_id(one) == function_id(one) or hasattr(one, "__self__")
    assert function_id(one) != function_id(other)


def _run(*arguments):
    source = Path(__file__).parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_function_of_the_program_goes_by_the_program(tmp_path):
    text = (
        "from prodml.cache.arguments import function_id\n"
        "def predict(row): ...\n"
        "print(function_id(predict))"
    )
    for name in ("fraud", "churn"):
        (tmp_path / f"{name}.py").write_text(text)
        assert _run(str(tmp_path / f"{name}.py")) == f"{name}.predict\n"
    # Typed in again, with the same name, it may be another model.
    assert _run("-c", text).startswith("<")
    assert _run("-c", text) != _run("-c", text)


def test_a_name_given_is_the_name():
    assert Arguments(lambda f, v: f, function="fraud", versioned=False).function == "fraud"


def test_features_and_version_come_by_place_or_by_name():
    plain = _reads(lecture, ROW, "v1")
    assert plain == (ROW, "v1", NO_EXTRA)
    assert plain == _reads(lecture, ROW, model_version="v1")
    assert plain == _reads(lecture, model_version="v1", features=ROW)


def test_defaults_count_as_given():
    assert _reads(threshold, ROW, "v1") == _reads(threshold, ROW, "v1", cut=0.5)


@pytest.mark.parametrize("change", [{"cut": 0.9}, {"x": 1}])
def test_other_arguments_are_part_of_the_key(change):
    assert _reads(threshold, ROW, "v1").extra != _reads(threshold, ROW, "v1", **change).extra


def test_more_positional_arguments_are_part_of_the_key():
    assert _reads(threshold, ROW, "v1").extra != _reads(threshold, ROW, "v1", 7).extra


def test_an_argument_that_cannot_be_named_is_told():
    with pytest.raises(TypeError):
        _reads(threshold, ROW, "v1", callback=print)


def test_a_call_that_does_not_fit_is_told():
    with pytest.raises(TypeError):
        _reads(lecture, ROW)


def test_a_function_without_signature_is_read_by_place():
    arguments = Arguments(math.hypot, versioned=False)
    assert arguments.read((1, 2), {})[:2] == (1, 2)
    with pytest.raises(TypeError):
        arguments.read((1,), {})


def test_a_function_of_any_arguments_is_read_by_place():
    arguments = Arguments(lambda *args: args, versioned=False)
    assert arguments.read((1, 2, 3), {})[:2] == (1, 2)
    assert arguments.read((1, 2, 3), {}).extra != arguments.read((1, 2, 4), {}).extra


def test_a_default_that_cannot_be_named_leaves_the_call_unnameable():
    def predict(features, log=print):
        return features

    with pytest.raises(TypeError):
        Arguments(predict, versioned=True).read((ROW,), {})


def test_without_a_second_argument_a_version_must_be_given():
    with pytest.raises(BadConfiguration, match="version"):
        Arguments(lambda features: features, versioned=False)


def test_rows_are_swapped_where_they_were_given():
    arguments = Arguments(lecture, versioned=False)
    assert arguments.swap("rows", (1, 2), {"k": 3}) == (("rows", 2), {"k": 3})
    assert arguments.swap("rows", (), {"features": 1}) == ((), {"features": "rows"})


class Slotted:
    __slots__ = ()

    def __call__(self, features):
        return features


def test_an_object_that_cannot_be_remembered_gets_a_new_name_each_time():
    model = Slotted()
    assert function_id(model) != function_id(model)
