from __future__ import annotations

from pathlib import Path

import pytest

from crossrank.errors import InputError
from crossrank.server.http.auth import Keys, read_keys
from crossrank.server.http.faults import Fault


def kind(keys: Keys, header: str | None, *, admin: bool = False) -> str:
    try:
        (keys.check_admin if admin else keys.check)(header)
    except Fault as fault:
        return fault.kind
    return "allowed"


def test_without_keys_everybody_may() -> None:
    assert kind(Keys(), None) == kind(Keys(), "Bearer anything") == "allowed"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer one", "allowed"),
        ("bearer two", "allowed"),
        ("Bearer  two ", "allowed"),
        ("Bearer boss", "allowed"),
        (None, "unauthorized"),
        ("", "unauthorized"),
        ("Bearer", "unauthorized"),
        ("Bearer ", "unauthorized"),
        ("Bearer onetwo", "unauthorized"),
        ("Bearer ONE", "unauthorized"),
        ("Basic one", "unauthorized"),
        ("one", "unauthorized"),
        ("Bearer \udcff", "unauthorized"),
    ],
)
def test_a_request_must_hold_one_of_the_keys(header: str | None, expected: str) -> None:
    assert kind(Keys(["one", "two"], "boss"), header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer boss", "allowed"),
        ("Bearer one", "forbidden"),
        ("Bearer x", "unauthorized"),
        (None, "unauthorized"),
    ],
)
def test_only_the_admin_may_do_what_is_the_admins(header: str | None, expected: str) -> None:
    assert kind(Keys(["one"], "boss"), header, admin=True) == expected


def test_without_an_admin_key_nobody_is_the_admin() -> None:
    assert kind(Keys(["one"]), "Bearer one", admin=True) == "forbidden"
    assert kind(Keys(), "Bearer ", admin=True) == "forbidden"


def test_an_admin_key_alone_asks_no_key_of_others() -> None:
    assert kind(Keys(admin="boss"), None) == "allowed"


def test_keys_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\n  one \ntwo\n")
    assert read_keys(file) == ["one", "two"]


@pytest.mark.parametrize("content", ["", "# none\n", None, b"\xff"])
def test_a_file_without_keys_is_an_error(tmp_path: Path, content: str | bytes | None) -> None:
    file = tmp_path / "keys"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match="keys"):
        read_keys(file)


def test_a_keys_name_tells_keys_apart_and_nothing_else() -> None:
    keys = Keys(["one secret", "another"], "admin")
    names = {keys.check(f"Bearer {key}") for key in ("one secret", "another", "admin")}
    assert len(names) == 3
    assert keys.check("bearer  one secret ") in names
    assert not any("secret" in name for name in names)
    assert Keys().check(None) == Keys().check("Bearer anything") == ""


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("secret-key\n", encoding="utf-8-sig")
    assert read_keys(file) == ["secret-key"]
