"""The public surface is a decision: what is exported is what is documented here."""

import crossrank
from crossrank import errors


def test_the_public_names_are_sorted_and_there() -> None:
    assert sorted(crossrank.__all__) == crossrank.__all__
    for name in crossrank.__all__:
        assert getattr(crossrank, name).__doc__


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(crossrank.__all__)
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), crossrank.CrossRankError)


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert crossrank.__version__ == version("crossrank")
