import gzip
import io
from pathlib import Path

import pytest
import zstandard

from crossrank import InputError
from crossrank.data import lines
from crossrank.data.lines import check_encoding, read_lines, read_object

TEXT = "first\n\nthird, 中国\u2028still third\r\n" + "x" * 600_000 + "\nlast"
LINES = [(1, "first"), (3, "third, 中国\u2028still third"), (4, "x" * 600_000), (5, "last")]


def write(path: Path, text: str) -> Path:
    """Compressed in two members (frames), as appending writes them."""
    data = text.encode()
    parts = [data[:9], data[9:]]
    if path.suffix == ".gz":
        parts = [gzip.compress(part) for part in parts]
    elif path.suffix == ".zst":
        parts = [zstandard.compress(part) for part in parts]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_lines_come_with_their_place(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TEXT)
    read: list[int] = []
    assert list(read_lines(path, read.append)) == [(f"{path}, line {n}", line) for n, line in LINES]
    assert read[-1] == path.stat().st_size


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
@pytest.mark.parametrize("cut", [5, 30, -1])
def test_a_compressed_file_cut_short_is_refused(tmp_path: Path, name: str, cut: int) -> None:
    path = write(tmp_path / name, TEXT)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="the file is truncated"):
        list(read_lines(path))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_a_file_that_is_not_compressed_as_it_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("plain text")
    with pytest.raises(InputError, match=f"{name}: not {path.suffix[1:]}, or damaged"):
        list(read_lines(path))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        list(read_lines(tmp_path / "none"))
    with pytest.raises(InputError, match="directory"):
        list(read_lines(tmp_path))
    bad = tmp_path / "bad"
    bad.write_bytes(b"good\nb\xff\n")
    with pytest.raises(InputError, match=r"line 2: not UTF-8 \(byte 2 of the line\)"):
        list(read_lines(bad))


def test_a_lone_surrogate_is_replaced_and_a_pair_of_them_is_a_character() -> None:
    line = r'{"\ud800": ["a\uDFFFb", {"c": "\ud83d\ude00 \\ud800 \u4e2d"}], "n": 0.1}'
    expected = {"\ufffd": ["a\ufffdb", {"c": "\U0001f600 \\ud800 中"}], "n": 0.1}
    assert read_object("here", line) == expected


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1" * 5000])
def test_numbers_that_json_does_not_have(number: str) -> None:
    with pytest.raises(InputError, match="f, line 1: not JSON: a number that is too long, NaN or infinite"):
        read_object("f, line 1", f'{{"x": {number}}}')


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_few_bytes_that_stand_for_many_come_in_pieces(kind: str) -> None:
    data = bytes(64 << 20)
    file = io.BytesIO(gzip.compress(data) if kind == "gz" else zstandard.compress(data))
    sizes = [len(piece) for piece, _ in lines.members(file, kind)]
    assert sum(sizes) == len(data)
    assert max(sizes) <= 8 << 20


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_a_line_has_a_longest(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_MAX_LINE", 3 << 20)
    assert [len(line) for _, line in read_lines(write(tmp_path / name, "x" * (3 << 20) + "\ny"))] == [
        3 << 20,
        1,
    ]
    with pytest.raises(InputError, match=f"{name}, line 2: longer than 3 MiB"):
        list(read_lines(write(tmp_path / name, "y\n" + "x" * (1 + (3 << 20)))))


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ("租房合同到期了怎么办，押金能退吗？".encode("gb18030"), "it reads as GB18030.*iconv -f GB18030"),
        ("tea".encode("utf-16"), "UTF-16; convert it: iconv -f UTF-16"),
        ("Müller, Größe, naïve café".encode("latin-1"), r"of the line\)$"),
    ],
)
def test_another_encoding_is_named_where_one_can_tell(tmp_path: Path, data: bytes, advice: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=advice):
        list(read_lines(path))


def test_an_array_in_place_of_lines() -> None:
    with pytest.raises(InputError, match=r"line 1: a JSON array; write one object a line"):
        read_object("f, line 1", '[{"text": "a"},')


def test_deep_nesting_is_one_line() -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        read_object("here", '{"a":' + "[" * 100_000)


def test_a_file_is_read_in_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "documents.txt"
    path.write_bytes("北京是首都。\r\n𠮷野家\n".encode("gb18030"))
    assert [line for _, line in read_lines(path, encoding="gb18030")] == ["北京是首都。", "𠮷野家"]
    path.write_bytes("\ufeff北京".encode("gb18030"))
    assert [line for _, line in read_lines(path, encoding="gb18030")] == ["北京"]
    path.write_bytes("北京".encode())
    with pytest.raises(InputError, match=r"line 1: not big5 \(byte 1 of the line\); give another --encoding"):
        list(read_lines(path, encoding="big5"))


@pytest.mark.parametrize("name", ["nothing", "utf-16", "rot13", "", "a\0b"])
def test_an_encoding_must_be_one_of_text_lines(name: str) -> None:
    with pytest.raises(InputError, match="--encoding"):
        check_encoding(name)


@pytest.mark.parametrize(("name", "usual"), [("GB18030", "gb18030"), ("UTF8", "utf-8"), ("big5", "big5")])
def test_an_encoding_has_several_spellings(name: str, usual: str) -> None:
    assert check_encoding(name) == usual
