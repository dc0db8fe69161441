import json
import random
import threading
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, processors

from crossrank.errors import CheckpointError, InputError, TooLongError
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import WHOLE_WINDOW, Cut, EncodedPair, PairEncoder, Side, Truncation
from crossrank.text.words import TokenIds, library_errors
from tests.checkpoints import write_bert, write_xlm_roberta
from tests.prompted import prompted_encoder


@pytest.fixture(scope="module")
def bundled() -> Path:
    return resolve(BUNDLED) / "tokenizer.json"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert")) / "tokenizer.json"


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("xlm-roberta")) / "tokenizer.json"


@pytest.fixture(params=["bundled", "bert", "xlm_roberta"])
def tokenizer_path(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


TEXTS = {
    "plain": "What is the capital of France?",
    "chinese": "中国的首都是哪里？北京是中国的政治中心。",
    "empty": "",
    "white space": " \t\n  ",
    "control characters": "a\x00b\x07c\x1b[31md\u200be\ufeff",
    "right to left": "ما هي عاصمة الصين؟ \u202bשלום\u202c",
    "emoji": "🐼 👩‍👩‍👧‍👦 ☀️ 🇨🇳",
    "combining": "e\u0301\u0301\u0301 ก็ำ",
    "special tokens as text": "</s><s> [SEP] [CLS] <unk> <pad>",
}


@pytest.mark.parametrize("query", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("document", TEXTS.values(), ids=TEXTS)
def test_ids_and_segments_are_the_tokenizers_own(tokenizer_path: Path, query: str, document: str) -> None:
    own = Tokenizer.from_file(str(tokenizer_path)).encode(query, document)
    pair = PairEncoder(tokenizer_path).encode(query, [document])[0]
    assert pair.token_ids.tolist() == own.ids
    assert pair.token_ids.dtype == np.int32
    if pair.segment_ids is None:
        assert set(own.type_ids) == {0}
    else:
        assert pair.segment_ids.tolist() == own.type_ids
    assert not pair.truncated


def test_bert_has_segments_and_xlm_roberta_has_none(bert: Path, bundled: Path) -> None:
    assert PairEncoder(bert).encode("a", ["b"])[0].segment_ids is not None
    assert PairEncoder(bundled).encode("a", ["b"])[0].segment_ids is None


def test_the_template_of_xlm_roberta(bundled: Path) -> None:
    ids = PairEncoder(bundled).encode("", [""])[0].token_ids
    assert ids.tolist() == [0, 2, 2, 2]


@cache
def two_tokenizers() -> tuple[Tokenizer, Tokenizer]:
    path = str(resolve(BUNDLED) / "tokenizer.json")
    return Tokenizer.from_file(path), Tokenizer.from_file(path)


@settings(max_examples=60, deadline=None)
@given(
    query=st.integers(0, 40),
    document=st.integers(0, 60),
    max_length=st.integers(6, 48),
)
def test_longest_first_is_the_tokenizers_own(query: int, document: int, max_length: int) -> None:
    texts = " x" * query, " y" * document
    own, tokenizer = two_tokenizers()
    own.enable_truncation(max_length, strategy="longest_first")
    encoder = PairEncoder(tokenizer, max_length=max_length, truncation="longest_first")
    assert encoder.encode(texts[0], [texts[1]])[0].token_ids.tolist() == own.encode(*texts).ids


def test_only_second_cuts_the_document_and_says_where(bundled: Path) -> None:
    query, document = "Where is Paris?", "one two three four five six seven eight nine ten"
    encoder = PairEncoder(bundled, max_length=16)
    whole = PairEncoder(bundled).encode(query, [document])[0]
    pair = encoder.encode(query, [document])[0]
    assert len(pair.token_ids) == 16
    assert pair.token_ids[:15].tolist() == whole.token_ids[:15].tolist()
    assert pair.token_ids[-1] == 2
    assert pair.truncated
    kept = encoder.kept(query, document)
    assert kept is not None
    assert 0 < kept < len(document)
    tokens = len(PairEncoder(bundled).encode(query, [document[:kept]])[0].token_ids)
    assert tokens == 16


def test_a_query_is_cut_only_where_it_has_more_than_half_of_the_window(bundled: Path) -> None:
    encoder = PairEncoder(bundled, max_length=20)
    exactly_half = " x" * 10
    pair = encoder.encode(exactly_half, [" y"])[0]
    assert (pair.query_truncated, pair.truncated) == (False, False)
    pair = encoder.encode(exactly_half + " x", [" y"])[0]
    assert (pair.query_truncated, pair.truncated) == (True, False)
    assert encoder.kept(exactly_half + " x", " y") is None  # it is the query that was cut
    assert len(pair.token_ids) == 1 + 10 + 2 + 1 + 1


@pytest.mark.parametrize("truncation", ["only_second", "longest_first"])
@pytest.mark.parametrize("max_length", [6, 7, 16, 512])
def test_no_pair_is_longer_than_the_window(bundled: Path, max_length: int, truncation: Truncation) -> None:
    encoder = PairEncoder(bundled, max_length=max_length, truncation=truncation, query_share=0.99)
    pairs = encoder.encode("query " * 600, ["document " * 600, "", "a"])
    assert max(len(pair.token_ids) for pair in pairs) <= max_length
    assert all(pair.query_truncated for pair in pairs)
    assert [pair.truncated for pair in pairs[:2]] == [True, False]


def test_which_text_was_cut_is_said_of_each_pair(bundled: Path) -> None:
    texts = ["document " * 40, "short", ""]
    encoder = PairEncoder(bundled, max_length=32)
    assert [(p.query_truncated, p.truncated) for p in encoder.encode("q", texts)] == [
        (False, True),
        (False, False),
        (False, False),
    ]
    assert [(p.query_truncated, p.truncated) for p in encoder.encode("query " * 40, texts)] == [
        (True, True),
        (True, False),
        (True, False),
    ]
    of_both = PairEncoder(bundled, max_length=32, truncation="longest_first")
    query = " x" * 20  # it is cut for a long document, and read whole beside a short one
    assert [(p.query_truncated, p.truncated) for p in of_both.encode(query, texts)] == [
        (True, True),
        (False, False),
        (False, False),
    ]


def test_lone_surrogates_become_replacement_characters(bundled: Path) -> None:
    encoder = PairEncoder(bundled)
    broken = encoder.encode("a\ud800b", ["\udfffc"])[0]
    replaced = encoder.encode("a\ufffdb", ["\ufffdc"])[0]
    assert broken.token_ids.tolist() == replaced.token_ids.tolist()


def test_a_million_characters(bundled: Path) -> None:
    encoder, document = PairEncoder(bundled), "很长的文档。" * 170_000
    pair = encoder.encode("长度", [document])[0]
    assert len(pair.token_ids) == 512
    assert pair.truncated
    assert 500 < (encoder.kept("长度", document) or 0) < 3000


def test_a_long_document_has_the_ids_of_its_whole_text(tokenizer_path: Path) -> None:
    # Long enough to be tokenised only in part; the ids must not show it.
    documents = [text * 400 for text in (TEXTS["plain"] + " ", TEXTS["chinese"], TEXTS["emoji"] + "x ")]
    documents += [" " * 50_000 + "word " * 100, "\x00" * 50_000 + "word " * 100]
    whole = Tokenizer.from_file(str(tokenizer_path))
    encoder = PairEncoder(tokenizer_path, max_length=64)
    size = len(whole.encode("q", "").ids)
    for document, pair in zip(documents, encoder.encode("q", documents), strict=True):
        ids = whole.encode(document, add_special_tokens=False).ids
        assert pair.token_ids[size - 1 : -1].tolist() == ids[: 64 - size]


def test_ten_thousand_documents(bundled: Path) -> None:
    pairs = PairEncoder(bundled).encode("Which one?", [f"document number {i}" for i in range(10_000)])
    assert len(pairs) == 10_000
    assert len({pair.token_ids.tobytes() for pair in pairs}) == 10_000


def same(left: list[EncodedPair], right: list[EncodedPair]) -> bool:
    return [pair.token_ids.tolist() for pair in left] == [pair.token_ids.tolist() for pair in right]


def test_pairs_are_encoded_as_their_query_with_their_document(bundled: Path) -> None:
    encoder = PairEncoder(bundled)
    pairs = [("q1", "a"), ("q2", "b"), ("q1", "c"), ("\ud800", "d")]
    expected = [encoder.encode(query, [document])[0] for query, document in pairs]
    assert same(encoder.encode([query for query, _ in pairs], [text for _, text in pairs]), expected)
    assert encoder.encode([], []) == []
    assert encoder.encode("q", []) == []


def test_many_threads_share_an_encoder(bundled: Path) -> None:
    encoder = PairEncoder(bundled, max_length=32)
    documents = [f"document {i} " * (i % 40) for i in range(50)]
    expected = encoder.encode("query", documents)
    right: list[bool] = []

    def work() -> None:
        right.extend(same(encoder.encode("query", documents), expected) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 80


def test_truncation_and_padding_of_the_file_are_ignored(bundled: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bundled))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = ("query", ["a document of more than eight tokens, certainly"])
    found = PairEncoder(tmp_path / "tokenizer.json").encode(*texts)
    assert same(found, PairEncoder(bundled).encode(*texts))


def test_a_missing_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing.*save_pretrained"):
        PairEncoder(tmp_path / "tokenizer.json")


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used: the tokenizers library says"):
        PairEncoder(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    from tokenizers import models

    Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?")).save(str(tmp_path / "t.json"))
    with pytest.raises(CheckpointError, match="no template for pairs"):
        PairEncoder(tmp_path / "t.json")


def test_options_out_of_range_are_refused(bundled: Path) -> None:
    with pytest.raises(InputError, match="max_length is 5; it must be at least 6"):
        PairEncoder(bundled, max_length=5)
    with pytest.raises(InputError, match="query_share is 1"):
        PairEncoder(bundled, query_share=1)
    with pytest.raises(InputError, match="truncation is 'left'"):
        PairEncoder(bundled, truncation="left")  # type: ignore[arg-type]


DOCUMENT = " ".join(f"word{i}" for i in range(600))


def test_from_the_left_the_end_of_a_document_is_kept(tokenizer_path: Path) -> None:
    encoder = PairEncoder(tokenizer_path, max_length=64)
    pair = encoder.encode("query", [DOCUMENT], Cut(side="left"))[0]
    whole = PairEncoder(tokenizer_path, max_length=4096).encode("query", [DOCUMENT])[0]
    assert pair.truncated
    assert len(pair.token_ids) == 64
    assert pair.token_ids[-50:].tolist() == whole.token_ids[-50:].tolist()
    assert pair.token_ids[:2].tolist() == whole.token_ids[:2].tolist()  # the query is as it was


@pytest.mark.parametrize("text", [DOCUMENT * 100, " " * 20_000 + DOCUMENT + " " * 20_000])
def test_of_a_very_long_document_the_right_end_is_kept(bundled: Path, text: str) -> None:
    short, long = PairEncoder(bundled, max_length=64), PairEncoder(bundled, max_length=1 << 20)
    pair = short.encode("query", [text], Cut(side="left"))[0]
    whole = long.encode("query", [text])[0]
    assert pair.token_ids[-50:].tolist() == whole.token_ids[-50:].tolist()


def test_a_call_cuts_document_query_and_pair_by_its_own_numbers(tokenizer_path: Path) -> None:
    encoder = PairEncoder(tokenizer_path)
    alone = encoder.encode("query", [""])[0]
    for cut, tokens in [
        (Cut(document=7), len(alone.token_ids) + 7),
        (Cut(document=7, side="left"), len(alone.token_ids) + 7),
        (Cut(pair=40), 40),
        (Cut(pair=100_000), 512),
        (Cut(pair=40, document=7), len(alone.token_ids) + 7),
    ]:
        pair = encoder.encode("query", [DOCUMENT], cut)[0]
        assert (len(pair.token_ids), pair.truncated, pair.query_truncated) == (tokens, True, False)
    cut_query = encoder.encode(DOCUMENT, [""], Cut(query=3))[0]
    assert len(cut_query.token_ids) == len(encoder.encode("", [""])[0].token_ids) + 3
    assert (cut_query.query_truncated, cut_query.truncated) == (True, False)
    unchanged = encoder.encode("query", ["short"], Cut(document=500, query=500, pair=500))[0]
    assert not unchanged.truncated
    assert unchanged.token_ids.tolist() == encoder.encode("query", ["short"])[0].token_ids.tolist()


def test_a_window_without_room_is_an_error(tokenizer_path: Path) -> None:
    with pytest.raises(InputError, match=r"4 tokens for a pair are too few; it takes at least [56]"):
        PairEncoder(tokenizer_path).encode("query", ["document"], Cut(pair=4))


def test_a_pair_that_may_not_be_cut_is_an_error_that_counts_it(tokenizer_path: Path) -> None:
    long = " ".join(f"word{i}" for i in range(50))
    tokens = len(PairEncoder(tokenizer_path, max_length=1 << 20).encode("query", [long])[0].token_ids)
    with pytest.raises(TooLongError, match=f"pair 1 has {tokens} tokens, and at most 64 fit") as caught:
        PairEncoder(tokenizer_path, max_length=64).encode("query", ["short", long], Cut(allowed=False))
    assert (caught.value.pair, caught.value.tokens, caught.value.limit) == (1, tokens, 64)
    assert caught.value.exact


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "text", [DOCUMENT * 20, "\ufdfa" * 100_000, " " * 20_000 + DOCUMENT * 20 + " " * 20_000]
)
def test_of_a_very_long_text_that_may_not_be_cut_only_a_part_is_read(
    bundled: Path, text: str, side: Literal["right", "left"], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = PairEncoder(bundled, max_length=64)
    read: list[int] = []
    ids = encoder._words.ids

    def counted(texts: Sequence[str]) -> list[TokenIds]:
        read.append(sum(map(len, texts)))
        return ids(texts)

    monkeypatch.setattr(encoder._words, "ids", counted)
    for pair in (("query", text), (text, "document")):
        read.clear()
        with pytest.raises(TooLongError, match=r"pair 0 has more than \d+ tokens, and at most 64") as caught:
            encoder.encode(pair[0], [pair[1]], Cut(side, allowed=False))
        assert not caught.value.exact
        assert caught.value.tokens > 64
        # Spaces have no tokens, so a longer part of such a text is read.
        assert sum(read) <= (80_000 if text[0] == " " else 1000)


def test_a_query_that_was_tokenised_before_is_not_again(
    bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = PairEncoder(bundled)
    pairs = [("a query", f"document {i}") for i in range(4)]
    expected = encoder.encode([query for query, _ in pairs], [text for _, text in pairs])
    read: list[str] = []
    ids = encoder._words.ids

    def noted(texts: Sequence[str]) -> list[TokenIds]:
        read.extend(texts)
        return ids(texts)

    monkeypatch.setattr(encoder._words, "ids", noted)
    texts = [text for _, text in pairs]
    query = encoder.query("a query")
    found = encoder.join(query, texts[:2]) + encoder.join([query] * 2, texts[2:])
    assert same(found, expected)
    assert read.count("a query") == 1
    read.clear()
    assert same(encoder.encode("a query", texts), expected)
    assert same(encoder.encode(["a query"] * 4, texts), expected)
    assert read.count("a query") == 2


def test_what_a_call_wants_cut_is_not_too_long(tokenizer_path: Path) -> None:
    cut = Cut(document=7, allowed=False)
    pair = PairEncoder(tokenizer_path, max_length=64).encode("query", [DOCUMENT], cut)[0]
    assert pair.truncated


def test_a_pair_that_just_fits_is_not_too_long(bundled: Path) -> None:
    size = len(PairEncoder(bundled).encode("query", ["one two three"])[0].token_ids)
    cut = Cut(allowed=False)
    assert len(PairEncoder(bundled, max_length=size).encode("query", ["one two three"], cut)) == 1
    with pytest.raises(TooLongError):
        PairEncoder(bundled, max_length=size - 1).encode("query", ["one two three"], cut)


def with_template(bert: Path, to: Path, pair: str) -> Path:
    """BERT's tokenizer with another template for pairs."""
    tokenizer = Tokenizer.from_file(str(bert))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=pair,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(to / "tokenizer.json"))
    return to / "tokenizer.json"


@pytest.mark.parametrize(
    "pair",
    [
        "$B [SEP] $A",
        "[CLS] $B [SEP] $A [SEP]",
        "$A [SEP] $A [SEP] $B",
        "$A $A [SEP] $B",
        "$A [SEP] $B $B",
        "[CLS] $A [SEP] $B [SEP] $A",
    ],
)
def test_a_template_in_another_order_is_refused(bert: Path, tmp_path: Path, pair: str) -> None:
    with pytest.raises(CheckpointError, match=r"template for pairs .* not put the query first"):
        PairEncoder(with_template(bert, tmp_path, pair))


@pytest.mark.parametrize(
    "pair",
    ["$A [SEP] $B", "[CLS]:1 [CLS] $A:1 $B:2", "$A $B [SEP]", "[SEP] $A:0 [SEP]:1 [CLS] $B:0 [SEP] [SEP]"],
)
def test_other_templates_give_the_tokenizers_own_ids(bert: Path, tmp_path: Path, pair: str) -> None:
    path = with_template(bert, tmp_path, pair)
    own = Tokenizer.from_file(str(path)).encode("the capital", "of France is Paris")
    found = PairEncoder(path).encode("the capital", ["of France is Paris"])[0]
    assert found.token_ids.tolist() == own.ids
    segments = [0] * len(own.ids) if found.segment_ids is None else found.segment_ids.tolist()
    assert len(set(own.type_ids)) == 1 or segments == own.type_ids


def test_ids_beyond_the_embedding_table_are_refused(tokenizer_path: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    size = tokenizer.get_vocab_size()
    PairEncoder(tokenizer_path, vocabulary=size)
    with pytest.raises(CheckpointError, match=rf"the id {size - 1}, but .* has {size - 1} rows"):
        PairEncoder(tokenizer_path, vocabulary=size - 1)
    tokenizer.add_tokens(["[EXTRA]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=rf"the token '\[(EXTRA|extra)\]' with the id {size}"):
        PairEncoder(tmp_path / "tokenizer.json", vocabulary=size)


def test_a_panic_of_the_library_is_an_error(bundled: Path, tmp_path: Path) -> None:
    """A panic is a BaseException, which `except Exception` lets through."""
    tokenizer = json.loads(bundled.read_bytes())
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used") as raised:
        PairEncoder(tmp_path / "tokenizer.json")
    assert not isinstance(raised.value.__cause__, Exception)


class Panic(BaseException):
    """As pyo3 names it."""


Panic.__name__ = "PanicException"


@pytest.mark.parametrize("error", [Panic("overflow"), Exception("odd"), OverflowError("large")])
@pytest.mark.parametrize("method", ["encode_batch", "encode_batch_fast"])
def test_what_the_library_raises_later_is_an_error(bundled: Path, error: BaseException, method: str) -> None:
    encoder = PairEncoder(bundled)

    class Failing:
        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any, **__: Any) -> Any:
                raise error

            return fail

    for holder in (encoder, encoder._words):
        holder._tokenizer = Failing()  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match="the tokenizer cannot be used"):
        encoder.encode("a query", ["two  spaces"] if method == "encode_batch_fast" else ["a document"])
    with pytest.raises(CheckpointError, match="the tokenizer cannot be used"):
        encoder.kept("a query", "a document")


def test_an_interrupt_is_none_of_the_librarys_errors() -> None:
    with pytest.raises(KeyboardInterrupt), library_errors("x"):
        raise KeyboardInterrupt


def odd_values() -> list[Any]:
    return [
        None,
        True,
        0,
        -1,
        1.5,
        1e300,
        2**63,
        2**70,
        "",
        "x",
        "\x1b[2J",
        "\ud800",
        [],
        [[]],
        {},
        {"a": None},
    ]


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value, of long lists to the first two alone."""
    found = [path]
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    for key, item in list(items)[:40]:
        found += places_in(item, (*path, key))
    return found


def test_no_tokenizer_ends_in_anything_but_a_named_error(
    bert: Path, xlm_roberta: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    answered = refused = 0
    for source in (bert, xlm_roberta):
        whole = json.loads(source.read_bytes())
        places = [place for place in places_in(whole) if place]
        for _ in range(120):
            value = json.loads(json.dumps(whole))
            for place in rng.sample(places, rng.choice([1, 1, 2])):
                holder = value
                try:
                    for key in place[:-1]:
                        holder = holder[key]
                    holder[place[-1]] = rng.choice(odd_values())
                except (TypeError, KeyError, IndexError, AttributeError):
                    continue  # the first change took the place of the second away
            (tmp_path / "tokenizer.json").write_text(json.dumps(value))
            try:
                PairEncoder(tmp_path / "tokenizer.json", vocabulary=10_000).encode(
                    "a 中 <s>", ["b [SEP]", ""]
                )
                answered += 1
            except (CheckpointError, InputError):
                refused += 1
    assert answered > 5
    assert refused > 20


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, '{"model":' * 100_000, "\x00", "\ufeff{}", "NaN", "{}", "null", "\x93NUMPY"]
)
def test_texts_that_are_no_tokenizer(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        PairEncoder(tmp_path / "tokenizer.json")


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(CheckpointError, match=r"git-lfs pointer.*git lfs pull"):
        PairEncoder(tmp_path / "tokenizer.json")


SENTENCES = [f"Sentence number {i} speaks of thing {i * i} and of nothing else." for i in range(400)]


def windows_of(encoder: PairEncoder, query: str, text: str, cut: Cut = WHOLE_WINDOW) -> list[EncodedPair]:
    (pairs,) = encoder.join_windows(encoder.query(query), [text], cut)
    return pairs


def places_of(pairs: list[EncodedPair]) -> list[tuple[int, int]]:
    return [pair.window for pair in pairs if pair.window is not None]


@cache
def loaded(path: Path) -> Tokenizer:
    """A tokenizer takes a second to load, and encoders may share one."""
    return Tokenizer.from_file(str(path))


def reader(path: Path, **options: Any) -> PairEncoder:
    """An encoder that reads long texts in windows."""
    return PairEncoder(loaded(path), long="windows", **options)


LONG_TEXTS = {
    "english": " ".join(SENTENCES[:60]),
    "chinese": "。".join(f"第{i}句话说的是第{i * i}件事" for i in range(300)),
    "one word": "x" * 4000,
    "url": "http://example.com/" + "a/b-c_d" * 500,
    "long ligatures": "\ufdfa" * 200,
    "marks": "e\u0301\u0301 ก็ำ 👩‍👩‍👧‍👦 " * 150,
}


@pytest.mark.parametrize("truncation", ["only_second", "longest_first"])
def test_the_pair_of_a_window_is_that_of_its_characters(tokenizer_path: Path, truncation: Truncation) -> None:
    encoder = reader(tokenizer_path, max_length=100, truncation=truncation, max_windows=1000)
    query = "What does it say of 25 things?"
    for name, text in LONG_TEXTS.items():
        pairs = windows_of(encoder, query, text)
        assert not any(pair.truncated or pair.query_truncated for pair in pairs), name
        assert all(pair.tokens <= 100 for pair in pairs), name
        if len(pairs) == 1:  # BERT has one token for a word of more than 100 letters
            continue
        places = places_of(pairs)
        alone = encoder.encode(query, [text[start:end] for start, end in places], Cut(allowed=False))
        assert [pair.token_ids.tolist() for pair in pairs] == [pair.token_ids.tolist() for pair in alone], (
            name
        )
        assert text[: places[0][0]].strip() == text[places[-1][1] :].strip() == ""
        assert all(before[1] > after[0] > before[0] for before, after in pairwise(places)), name


def test_windows_of_a_prompted_model_share_its_prefix() -> None:
    encoder = prompted_encoder(long="windows", max_windows=1000)
    text = " ".join(SENTENCES[:80])
    pairs = windows_of(encoder, "thing 49", text)
    assert len(pairs) > 5
    for pair in pairs:
        assert pair.window is not None
        start, end = pair.window
        alone = encoder.encode("thing 49", [text[start:end]])[0]
        assert pair.token_ids.tolist() == alone.token_ids.tolist()
        assert (pair.prefix, alone.truncated) == (pairs[0].prefix, False)
        assert pair.tokens <= 256


def test_a_text_that_fits_has_one_pair_and_no_window(bundled: Path) -> None:
    encoder = reader(bundled, max_length=32)
    assert [pair.window for pair in windows_of(encoder, "a", "b")] == [None]
    assert [pair.window for pair in windows_of(encoder, "a", " " * 9000)] == [None]
    cut = windows_of(encoder, "a", SENTENCES[0] * 9, Cut(long="cut"))
    assert [(pair.window, pair.truncated) for pair in cut] == [(None, True)]


def test_several_texts_each_have_their_windows(bundled: Path) -> None:
    encoder = reader(bundled, max_length=64)
    texts = [" ".join(SENTENCES[:10]), "short", " ".join(SENTENCES[10:20])]
    queries = encoder.queries(["one", "two", "three"])
    together = encoder.join_windows(queries, texts)
    assert [len(pairs) > 1 for pairs in together] == [True, False, True]
    for query, text, pairs in zip(("one", "two", "three"), texts, together, strict=True):
        alone = windows_of(encoder, query, text)
        assert [pair.token_ids.tolist() for pair in pairs] == [pair.token_ids.tolist() for pair in alone]


def test_a_window_ends_with_a_sentence_and_its_sentences_are_in_the_next_one_too(bundled: Path) -> None:
    text = " ".join(SENTENCES[:60])
    ends = {text.index(sentence) + len(sentence) for sentence in SENTENCES[:60]}
    begins = {text.index(sentence) for sentence in SENTENCES[:60]}
    places = places_of(windows_of(reader(bundled, max_length=256), "25", text))
    assert {start for start, _ in places} <= begins
    assert {end for _, end in places} <= ends


def test_of_too_many_windows_the_first_and_those_with_the_querys_words_are_read(bundled: Path) -> None:
    encoder = reader(bundled, max_length=100, max_windows=3)
    text = " ".join([*SENTENCES[:100], "Zebras have black and white stripes.", *SENTENCES[100:200]])
    pairs = windows_of(encoder, "What colour are zebras?", text)
    assert len(pairs) == 3
    assert all(pair.truncated for pair in pairs)  # no window has the rest
    places = places_of(pairs)
    assert places == sorted(places)
    assert places[0][0] == 0
    assert any("Zebras" in text[start:end] for start, end in places)
    assert places_of(windows_of(encoder, "What colour are zebras?", text)) == places
    (first,) = windows_of(encoder, "What colour are zebras?", text, Cut(max_windows=1))
    assert first.window == places[0]
    assert len(windows_of(encoder, "What colour are zebras?", text, Cut(max_windows=5))) == 5


def test_only_a_part_of_a_very_long_text_is_tokenised_wherever_its_answer_stands(
    bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = reader(bundled, max_length=100, max_windows=4)
    text = " ".join([*SENTENCES * 50, "Zebras have black and white stripes.", *SENTENCES * 20])
    read: list[str] = []

    def note(texts: list[str]) -> list[Encoding]:
        read.extend(texts)
        return own(texts)

    own = encoder._with_offsets
    monkeypatch.setattr(encoder, "_with_offsets", note)
    pairs = windows_of(encoder, "What colour are zebras?", text)
    assert sum(map(len, read)) <= 8 * 4 * 100 < len(text) // 100
    assert len(pairs) == 4
    assert any("Zebras" in text[start:end] for start, end in places_of(pairs))
    assert all(pair.truncated for pair in pairs)


@pytest.mark.parametrize("side", ["right", "left"])
def test_windows_stay_within_a_calls_limit_for_the_document(bundled: Path, side: Side) -> None:
    encoder = reader(bundled, max_length=64, max_windows=100)
    text = " ".join(SENTENCES[:60])
    count = reader(bundled, max_length=8192).ids
    for limit in (150, 300):
        pairs = windows_of(encoder, "25", text, Cut(side, document=limit))
        places = places_of(pairs)
        part = text[places[0][0] : places[-1][1]]
        assert text.startswith(part) if side == "right" else text.endswith(part)
        # One more, where it begins within a word.
        assert limit - 12 < len(count([part])[0]) <= limit + 1
        assert all(pair.truncated for pair in pairs)
    whole = windows_of(encoder, "25", text, Cut(side, document=len(count([text])[0])))
    assert not any(pair.truncated for pair in whole)
    # What a window holds anyway is cut as ever.
    (pair,) = windows_of(encoder, "25", text, Cut(side, document=20))
    (as_before,) = encoder.encode("25", [text], Cut(side, document=20))
    assert (pair.window, pair.token_ids.tolist()) == (None, as_before.token_ids.tolist())


def test_what_may_not_be_cut_is_not_read_in_windows(bundled: Path) -> None:
    encoder = reader(bundled, max_length=64)
    with pytest.raises(TooLongError):
        windows_of(encoder, "25", " ".join(SENTENCES[:60]), Cut(allowed=False))


@pytest.mark.parametrize(
    "options", [{"long": "split"}, {"long": None}, {"max_windows": 0}, {"max_windows": 1.5}]
)
def test_the_options_of_windows_are_checked(bundled: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        PairEncoder(loaded(bundled), **options)


def test_windows_may_be_shorter_than_what_the_model_reads(bundled: Path) -> None:
    encoder = reader(bundled, max_length=200, window_length=64, max_windows=100)
    fits = " ".join(SENTENCES[:9])
    assert 64 < encoder.encode("25", [fits])[0].tokens <= 200
    assert [pair.window for pair in windows_of(encoder, "25", fits)] == [None]
    pairs = windows_of(encoder, "25", " ".join(SENTENCES[:40]))
    assert max(pair.tokens for pair in pairs) <= 64
    assert len(pairs) > 10
    # A document that a call's limit makes fit is read as a whole.
    (pair,) = windows_of(encoder, "25", " ".join(SENTENCES[:40]), Cut(document=100))
    assert (pair.window, pair.tokens > 100) == (None, True)
    assert reader(bundled, max_length=40, window_length=64).window_length == 40


def test_of_a_text_with_many_tokens_a_character_only_a_part_is_tokenised(
    bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = reader(bundled, max_length=64, max_windows=100)
    read: list[str] = []
    own = encoder._with_offsets

    def note(texts: list[str]) -> list[Encoding]:
        read.extend(texts)
        return own(texts)

    monkeypatch.setattr(encoder, "_with_offsets", note)
    text = "\ufdfa" * 60_000  # 18 tokens each
    pairs = windows_of(encoder, "q", text)
    assert sum(map(len, read)) <= 4 * 4096
    assert (len(pairs), pairs[0].truncated) == (100, True)
    assert all(pair.tokens <= 64 for pair in pairs)
    # Nothing is left out of usual texts, in pieces or not.
    usual = " ".join(SENTENCES[:200])
    assert len(usual) > 2 * 4096
    places = places_of(windows_of(encoder, "q", usual))
    assert (places[0][0], places[-1][1]) == (0, len(usual))
    assert all(before[1] > after[0] for before, after in pairwise(places))
