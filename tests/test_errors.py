"""Errors cross processes: a worker's error is the caller's, with its message and fields."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from crossrank import errors

MADE: list[errors.CrossRankError] = [
    errors.CrossRankError("a message"),
    errors.InputError("a message"),
    errors.MissingLibraryError("a message", name="ray"),
    errors.ModelError("a message"),
    errors.ModelNotFoundError("a message"),
    errors.CheckpointError("a message"),
    errors.UnsupportedModelError("a message"),
    errors.EngineError("a message"),
    errors.OutOfMemoryError("a message"),
    errors.NonFiniteLogitError(3, float("inf")),
    errors.ServiceError("a message"),
    errors.OverloadedError("a message", 2.5),
    errors.DeadlineError("a message"),
    errors.UnknownModelError("a", ["b", "c"]),
    errors.TooLongError(1, 600, 512),
    errors.UnavailableError("a message", 1.5),
]


def test_every_error_is_here() -> None:
    assert {type(error).__name__ for error in MADE} == set(errors.__all__)


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickle_with_its_message_and_fields(error: errors.CrossRankError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    if isinstance(error, errors.MissingLibraryError):
        assert getattr(found, "name", None) == error.name


def fail(error: errors.CrossRankError) -> None:
    raise error


def test_a_worker_that_fails_does_not_break_its_pool() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(errors.TooLongError) as caught:
            pool.submit(fail, errors.TooLongError(1, 600, 512)).result()
        assert (caught.value.pair, caught.value.tokens, caught.value.limit) == (1, 600, 512)
        assert pool.submit(abs, -1).result() == 1
