"""Files of documents, chosen and dropped."""

from __future__ import annotations

import base64

from playwright.sync_api import FilePayload, Page, expect

from tests.browser.conftest import cards

GOOD = {
    "lines.txt": (b"\xef\xbb\xbfone\r\n\r\ntwo\r\n", "one\ntwo", "line", None),
    "blocks.txt": ("one\nmore\n\n\n二\n".encode(), "one\nmore\n\n二", "block", None),
    "a.jsonl": (
        b'{"text": "one", "query": "which?"}\n\n"two"\n{"document": "three"}\n',
        "one\ntwo\nthree",
        "line",
        "which?",
    ),
    "b.jsonl": (b'{"text": "one\\n\\nmore"}\n{"text": "two"}\n', "one\nmore\n\ntwo", "block", None),
    "c.json": (b'[{"text": "one"}, "two"]', "one\ntwo", "line", None),
    "d.json": (b'{"query": "q?", "documents": ["one", {"text": "two"}]}', "one\ntwo", "line", "q?"),
    "e.csv": (
        b'id,Text,query\n1,"one, ""quoted""",q?\n2,"two\nlines",\n3,,\n',
        'one, "quoted"\n\ntwo\nlines',
        "block",
        "q?",
    ),
    "f.csv": (
        b"1,a long first text,x\n2,a long second text,y",
        "a long first text\na long second text",
        "line",
        None,
    ),
    "g.tsv": (b"text\tid\none, two\t1\n", "one, two", "line", None),
    "spaces.csv": (b'id, text\n1, "hello, there" \n2,  bare\n', "hello, there\nbare", "line", None),
    "excel.csv": (
        'id;text;query\r\n1;"eins; zwei";Was?\r\n2;drei, vier;\r\n'.encode("utf-16"),
        "eins; zwei\ndrei, vier",
        "line",
        "Was?",
    ),
    "tabs.csv": (b"id\ttext\n1\tone, two; three\n", "one, two; three", "line", None),
    "single.csv": (b'text\none, two\n"three; ""four"""\n', 'one, two\nthree; "four"', "line", None),
    "title.csv": (b"title,description\nA,long text\n", "long text", "line", None),
    "body.csv": (b"title,body\nA rather long title,b\n", "b", "line", None),
    "brace.txt": (
        b'{"name"} is a placeholder\nand this a line\n',
        '{"name"} is a placeholder\nand this a line',
        "line",
        None,
    ),
    "json.txt": (b'{"text": "one"}\n{"text": "two"}\n', "one\ntwo", "line", None),
    "old.txt": ("北京\n上海\n".encode("gb18030"), "北京\n上海", "line", None),
    "wide.txt": ("北京\nx".encode("utf-16"), "北京\nx", "line", None),
}
BAD = {
    "a.jsonl": (
        b'{"text": "one"}\n{"title": "two"}\n',
        'Line 2 is neither a JSON string nor an object with "text".',
    ),
    "b.jsonl": (b'{"text": "one"}\n{"text": \n', "Line 2 is neither"),
    "c.txt": (b" \n\n", "It contains no documents."),
    "d.csv": (b"text\n", "It contains no documents."),
    "quote.csv": (b'id,text\n1,"one"\n2,"two\n3,three\n', "The quotation marks from line 3 on do not match."),
    "stray.csv": (b'id,text\n1,"one" more\n', "The quotation marks from line 2 on do not match."),
    "e.pdf": (b"%PDF-1.7\x00\x01\x02", "It is not a text file."),
}


def choose(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})


def test_a_file_becomes_documents(page: Page) -> None:
    for name, (content, text, split, query) in GOOD.items():
        page.fill("#query", "mine")
        choose(page, name, content)
        expect(page.locator("#count")).to_contain_text(f"from {name}")
        expect(page.locator("#documents")).to_have_value(text)
        assert page.is_checked(f"[name=split][value={split}]"), name
        assert page.input_value("#query") == (query or "mine"), name


def test_what_was_changed_or_guessed_of_a_file_is_said(page: Page) -> None:
    choose(page, "b.jsonl", GOOD["b.jsonl"][0])
    expect(page.locator("#count")).to_contain_text("Blank lines within documents were removed.")
    choose(page, "old.txt", GOOD["old.txt"][0])
    expect(page.locator("#count")).to_have_text("Read 2 documents from old.txt. old.txt was read as GB18030.")
    choose(page, "other.csv", b"id,blurb\n1,a long first text\n")
    expect(page.locator("#count")).to_have_text(
        "Read 2 documents from other.csv. "
        "other.csv has no column named text, so column 2 was used, including its first line."
    )


def test_a_cell_may_be_as_large_as_a_file_may(page: Page) -> None:
    choose(page, "large.csv", b'text\n"' + b'""a ' * 3_900_000 + b'"\n')
    expect(page.locator("#count")).to_contain_text("from large.csv")
    assert page.evaluate("document.getElementById('documents').value.length") == 3 * 3_900_000 - 1


def test_several_files_are_joined(page: Page) -> None:
    files: list[FilePayload] = [
        {"name": "a.txt", "mimeType": "", "buffer": b"one\ntwo"},
        {"name": "b.jsonl", "mimeType": "", "buffer": b'{"text": "three", "query": "which?"}'},
        {"name": "c.txt", "mimeType": "", "buffer": "四\n五".encode("gb18030")},
    ]
    page.set_input_files("#file", files)
    expect(page.locator("#count")).to_have_text(
        "Read 5 documents from a.txt, b.jsonl, c.txt. c.txt was read as GB18030."
    )
    expect(page.locator("#documents")).to_have_value("one\ntwo\nthree\n四\n五")
    expect(page.locator("#query")).to_have_value("which?")
    files[1] = {"name": "d.txt", "mimeType": "", "buffer": b"\n"}
    page.set_input_files("#file", files)
    expect(page.locator("#notice")).to_contain_text("d.txt cannot be used")
    expect(page.locator("#documents")).to_have_value("one\ntwo\nthree\n四\n五")


def test_a_file_that_cannot_be_used_says_why(page: Page) -> None:
    before = page.input_value("#documents")
    for name, (content, message) in BAD.items():
        choose(page, name, content)
        expect(page.locator("#notice")).to_contain_text(f"{name} cannot be used")
        expect(page.locator("#notice")).to_contain_text(message)
        assert page.input_value("#documents") == before


def test_a_file_that_is_too_large_is_not_read(page: Page) -> None:
    page.evaluate(
        """() => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(17 << 20).fill(65)], "large.txt"));
        document.getElementById("file").files = transfer.files;
        document.getElementById("file").dispatchEvent(new Event("change"));
        }"""
    )
    expect(page.locator("#notice")).to_contain_text("large.txt cannot be used")
    expect(page.locator("#notice")).to_contain_text("It is larger than 16 MB")


def test_a_file_is_dropped_anywhere(page: Page) -> None:
    data = base64.b64encode(b"one\ntwo\nthree").decode()
    transfer = page.evaluate_handle(
        """(data) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], "dropped.txt"));
        return transfer;
        }""",
        data,
    )
    page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("main", "dragleave", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_be_hidden()
    page.dispatch_event("main", "dragenter", {"dataTransfer": transfer})
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator("#documents")).to_have_value("one\ntwo\nthree")
    page.click("#run")
    expect(cards(page, 1)).to_have_count(3)
