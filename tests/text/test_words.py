import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from crossrank.models.resolve import BUNDLED, resolve
from crossrank.text import words
from crossrank.text.unicode import clean
from crossrank.text.words import WordTokenizer
from tests.checkpoints import write_bert, write_xlm_roberta


class Silent:
    """A tokenizer that must not be asked."""

    def encode_batch(self, texts: list[Any], **_options: Any) -> list[Any]:
        assert not texts, f"the tokenizer was asked for {texts}"
        return []

    encode_batch_fast = encode_batch


def is_known(tokenizer: WordTokenizer, text: str) -> bool:
    """Whether the ids of a text come without the library."""
    library, tokenizer._tokenizer = tokenizer._tokenizer, Silent()  # type: ignore[assignment]
    try:
        tokenizer.ids([text])
    except AssertionError:
        return False
    finally:
        tokenizer._tokenizer = library
    return True


def ids(tokenizer: WordTokenizer, texts: list[str]) -> list[list[int]]:
    return [found.tolist() for found in tokenizer.ids(texts)]


def own_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    own: list[int] = tokenizer.encode(clean(text), add_special_tokens=False).ids
    return own


@pytest.fixture(scope="module")
def library() -> Tokenizer:
    return Tokenizer.from_file(str(resolve(BUNDLED) / "tokenizer.json"))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory, library: Tokenizer) -> list[Tokenizer]:
    folders: list[Path] = [
        write_bert(tmp_path_factory.mktemp("bert")),
        write_xlm_roberta(tmp_path_factory.mktemp("xlm-roberta")),
    ]
    return [library, *(Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders)]


def test_words_are_remembered(library: Tokenizer) -> None:
    tokenizer = WordTokenizer(library)
    seen = ["Paris is the capital of France.", "The Seine flows through Paris, 13 €/day."]
    assert not is_known(tokenizer, seen[0])
    assert ids(tokenizer, seen) == [own_ids(library, text) for text in seen]
    new = "The capital is Paris, 13 €/day. the Seine flows"
    assert is_known(tokenizer, new)
    assert ids(tokenizer, [new]) == [own_ids(library, new)]


def test_a_batch_of_known_new_and_strange_texts_keeps_its_order(library: Tokenizer) -> None:
    tokenizer = WordTokenizer(library)
    tokenizer.ids(["known words"])
    texts = ["words known", "北京是中国的首都。" * 8, "a new word", "two  spaces", "", "known"]
    assert ids(tokenizer, texts) == [own_ids(library, text) for text in texts]
    assert ids(tokenizer, []) == []


# What may change what stands beside it: spaces of every kind, marks, joiners, what becomes a space or begins
# with one, the sign of a space, added tokens and their pieces.
PIECES = [
    *"aZé1.,-'’…€^`ßΣςنはパ한北",
    *(" ", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x00", "\x07"),
    *("\u0301", "\u0338", "\u3099", "\uff9e", "\u200d", "\u200c", "\u200b", "\ufeff", "\u00ad", "\ufffd"),
    *("´", "¨", "‾", "﹉", "ﷺ", "▁", "＜", "\u0e33", "\U0001f3fb", "👩", "\ud800", "#", "##"),
    *("<s>", "</s>", "<mask>", "<MASK>", "<unk>", "[SEP]", "[sep]", "<ma", "sk>", "[UNK]", "[", "]"),
    *("the", "capital", "Paris", "ﬁ", "Ⅷ", "½", "ǆ", "İ", "clé", "cle\u0301", "x" * 40),
]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=6)


@settings(max_examples=400, deadline=None)
@given(texts=TEXTS)
def test_ids_are_the_tokenizers_own(tokenizers: list[Tokenizer], texts: list[str]) -> None:
    for library in tokenizers:
        tokenizer = WordTokenizer(library)
        own = [own_ids(library, text) for text in texts]
        assert ids(tokenizer, texts) == own
        assert ids(tokenizer, texts) == own  # now from memory, where it is trusted


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=40), max_size=6))
def test_ids_of_any_text_are_the_tokenizers_own(tokenizers: list[Tokenizer], texts: list[str]) -> None:
    for library in tokenizers:
        tokenizer = WordTokenizer(library)
        # Each text between words, so that what it begins and ends with has a space beside it.
        texts = [*texts, *(f"a {text} b" for text in texts)]
        assert ids(tokenizer, texts) == ids(tokenizer, texts) == [own_ids(library, text) for text in texts]


@pytest.mark.parametrize(
    "word", ["<mask>", "a<mask>b", "</s>", "＜mask＞", "<MASK>", "x" * 33, "´", "ﷺ", "a\tb", "▁a", "\u0301a"]
)
def test_a_word_that_may_not_stand_for_itself_is_not_remembered(library: Tokenizer, word: str) -> None:
    tokenizer = WordTokenizer(library)
    text = f"a {word} b"
    assert ids(tokenizer, [text, text]) == [own_ids(library, text)] * 2
    assert not is_known(tokenizer, text)


def test_memory_is_bounded(library: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 8)
    tokenizer = WordTokenizer(library)
    for i in range(20):
        text = f"number {i} of {i + 1}"
        assert ids(tokenizer, [text]) == [own_ids(library, text)]
        assert len(tokenizer._known) <= 8
    long = " ".join(map(str, range(100)))
    assert ids(tokenizer, [long]) == [own_ids(library, long)]


def test_threads_share_what_is_known(library: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 50)  # forgotten again and again
    tokenizer = WordTokenizer(library)
    texts = [f"passage {i} of river {i % 7}" for i in range(200)]
    own = [own_ids(library, text) for text in texts]
    wrong: list[int] = []

    def read(step: int) -> None:
        wrong.extend(
            i for i in range(0, len(texts), step) if ids(tokenizer, texts[i : i + step]) != own[i : i + step]
        )

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 2, 3, 5, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def small(model: Any = None) -> Tokenizer:
    """A tokenizer that reads words: a and b are tokens, and so is each behind the sign of a space."""
    pieces = [
        ("<unk>", 0.0),
        ("▁a", -1.0),
        ("▁b", -1.0),
        ("a", -2.0),
        ("b", -2.0),
        ("▁", -3.0),
        ("▁a▁b", -0.5),
    ]
    tokenizer = Tokenizer(model or models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def remembers(library: Tokenizer) -> bool:
    """Whether words are trusted; the ids are right either way."""
    tokenizer = WordTokenizer(library)
    for text in ("a b", "b a", "ab a", "a b"):
        assert ids(tokenizer, [text]) == [own_ids(library, text)], text
    return is_known(tokenizer, "a b")


def test_only_tokenizers_that_read_words_are_trusted() -> None:
    assert remembers(small())

    first = small()
    first.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    assert not remembers(first)

    unsplit = small()
    unsplit.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    assert own_ids(unsplit, "a b") == [6]  # one token over two words
    assert not remembers(unsplit)

    signed = small()
    signed.pre_tokenizer = pre_tokenizers.Metaspace(replacement="a")
    assert not remembers(signed)

    nothing = small()
    nothing.pre_tokenizer = None
    assert not remembers(nothing)

    bytewise = small()
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert not remembers(bytewise)

    merging = small(models.BPE({"a": 0, "b": 1, "▁": 2}, []))
    assert not remembers(merging)

    replacing = small()
    replacing.normalizer = normalizers.Replace(Regex("a b"), "b")
    assert own_ids(replacing, "a b") == [2]
    assert not remembers(replacing)

    joining = small()
    joining.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    assert remembers(joining)

    spaced = small()
    spaced.add_tokens([AddedToken("a b", normalized=False)])
    assert own_ids(spaced, "a b") == [7]
    assert not remembers(spaced)


def test_letters_that_begin_with_a_mark_join_what_is_before_them(library: Tokenizer) -> None:
    """Precompiled reads a space, such a letter and marks on it as one; alone they are another one."""
    letters = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c))[0] in "LNP"]
    joining = [c for c in letters if unicodedata.category(unicodedata.normalize("NFKD", c)[0])[0] == "M"]
    assert {"\u0e33", "\u0eb3", "\uff9e", "\uff9f"} <= set(joining)
    marks = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c))[0] == "M"]
    texts = [f"a {letter}{mark}" for letter in joining for mark in marks] + [f"a {c} b" for c in joining]
    tokenizer = WordTokenizer(library)
    own = [e.ids for e in library.encode_batch(texts, add_special_tokens=False)]
    assert ids(tokenizer, texts) == own
    assert ids(tokenizer, texts) == own  # from memory, were it trusted
