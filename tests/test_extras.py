import subprocess
import sys
from pathlib import Path

import pytest

from crossrank._extras import needs
from crossrank.errors import CrossRankError, InputError, MissingLibraryError


def test_a_library_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(MissingLibraryError) as caught, needs("eval", "a report"):
        import no_such_library.part  # type: ignore[import-not-found]  # noqa: F401
    assert str(caught.value) == (
        "a report needs no_such_library, which is not installed: pip install 'crossrank[eval]'"
    )
    assert caught.value.name == "no_such_library"
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, ModuleNotFoundError)


def test_a_library_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_broken_library.py").write_text("from os import no_such_name")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(MissingLibraryError, match=r"needs os, which cannot be imported \(.*no_such_name"),
        needs("ray", "a cluster"),
    ):
        import a_broken_library  # type: ignore[import-not-found]  # noqa: F401


def test_a_library_that_does_not_say_its_name() -> None:
    with (
        pytest.raises(
            MissingLibraryError, match=r"needs a library, which cannot be imported \(too old\): pip"
        ),
        needs("ray", "a cluster"),
    ):
        raise ImportError("too old")


def test_the_innermost_block_says_what_is_missing() -> None:
    with (
        pytest.raises(MissingLibraryError, match=r"^the client needs") as caught,
        needs("mteb", "an adapter"),
        needs("client", "the client"),
    ):
        import no_such_library  # noqa: F401
    assert isinstance(caught.value, CrossRankError)


def test_a_mistake_of_crossranks_own_is_not_hidden() -> None:
    with pytest.raises(ImportError) as caught, needs("eval", "a report"):
        from crossrank.errors import NoSuchError  # type: ignore[attr-defined]  # noqa: F401
    assert not isinstance(caught.value, MissingLibraryError)


# A finder that knows nothing of one library, as where it is not installed.
ABSENT = """
import sys
class Absent:
    def __init__(self, library):
        self.library = library
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
"""


@pytest.mark.parametrize(
    ("library", "code", "message"),
    [
        ("httpx", "import crossrank.client", "the client needs httpx, which is not installed: {client}"),
        ("ray", "import crossrank.ray", "a cluster needs ray, which is not installed: {ray}"),
        (
            "zstandard",
            "from crossrank.data.lines import read_lines; list(read_lines('x.zst'))",
            "a .zst file needs zstandard, which is not installed: {eval}",
        ),
        (
            "pyarrow",
            "from crossrank.data.rows import read_rows; list(read_rows('x.parquet'))",
            "Parquet needs pyarrow, which is not installed: {eval}",
        ),
        (
            "ir_measures",
            "from crossrank.evaluation.measure import parse_metrics; parse_metrics(['MRR'])",
            "a measure needs ir_measures, which is not installed: {eval}",
        ),
        (
            "ir_datasets",
            "from crossrank.data.collection import load_collection; load_collection('irds:x')",
            "irds:x needs ir_datasets, which is not installed: {eval}",
        ),
        (
            "mteb",
            "from crossrank.data.collection import load_collection; load_collection('mteb:x')",
            "mteb:x needs mteb, which is not installed: {mteb}",
        ),
        (
            "modelscope",
            "from crossrank import Reranker; Reranker('a/b', source='modelscope')",
            "a/b from ModelScope needs modelscope, which is not installed: {modelscope}",
        ),
    ],
)
def test_what_needs_an_extra_names_it(library: str, code: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.zst").write_bytes(b"x")
    code = f"{ABSENT}sys.meta_path.insert(0, Absent({library!r})); {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    extra = message.partition("{")[2].rstrip("}")
    expected = message.replace(f"{{{extra}}}", f"pip install 'crossrank[{extra}]'")
    assert done.stderr.splitlines()[-1] == f"crossrank.errors.MissingLibraryError: {expected}"
