import pytest

from crossrank import InputError
from crossrank.bulk.store import DocumentStore


def test_texts_by_id() -> None:
    store = DocumentStore(("x", f"d{i}", f"text {i} \ud800") for i in range(3000))
    wanted = [f"d{i}" for i in range(0, 3000, 2)]
    found = store.texts([*wanted, "none"])
    store.close()
    assert sorted(found) == sorted(wanted)
    assert found["d4"] == "text 4 \ufffd"


def test_an_id_that_comes_twice() -> None:
    with pytest.raises(InputError, match="line 3: duplicate id 'a'"):
        DocumentStore((f"line {n}", identity, "x") for n, identity in enumerate("aba", 1))
