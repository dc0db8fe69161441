"""Pairs of models that are asked with a prompt."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from crossrank.errors import InputError, TooLongError, UnsupportedModelError
from crossrank.models.prompt import Prompt
from crossrank.models.templates import KNOWN
from crossrank.packing import build_pack
from crossrank.pairs import Cut, PairEncoder
from tests.decoders import TEXTS, gemma_tokenizer, qwen_tokenizer

QWEN3, GEMMA, MXBAI, ZERANK = KNOWN[:4]
LONG = " ".join(f"word{i}" for i in range(600))


def encoder(prompt: Prompt = QWEN3.prompt, max_length: int = 1024) -> PairEncoder:
    text = gemma_tokenizer() if prompt is GEMMA.prompt else qwen_tokenizer()
    return PairEncoder(Tokenizer.from_str(text), prompt=prompt, max_length=max_length)


def test_what_is_shared_by_all_documents_of_a_query_is_a_pairs_prefix() -> None:
    for known in KNOWN:
        pairs = encoder(known.prompt).encode("capital of China", list(TEXTS))
        prefixes = {pair.token_ids[: pair.prefix].tobytes() for pair in pairs}
        assert len(prefixes) == 1
        # No longer beginning is shared by all: the next token is the document's, or what follows it.
        assert len({int(pair.token_ids[pair.prefix]) for pair in pairs}) > 1


def test_most_of_qwen3_rerankers_prompt_is_prefix() -> None:
    one = encoder()
    (pair,) = one.encode("", [""])
    assert pair.prefix > 0.75 * one.special_tokens
    around = one.template
    assert around.startswith("<|im_start|>system\nJudge whether")
    assert "<Query>: {query}\n<Document>: {document}<|im_end|>" in around


def test_the_document_is_cut_at_its_end_and_what_follows_stays() -> None:
    for known in KNOWN:
        whole = encoder(known.prompt, 8192).encode("query", [LONG])[0]
        (cut,) = encoder(known.prompt, 200).encode("query", [LONG])
        after = len(encoder(known.prompt)._template.after)
        assert cut.truncated
        assert not cut.query_truncated
        assert cut.tokens == 200
        kept = 200 - after
        assert cut.token_ids[:kept].tolist() == whole.token_ids[:kept].tolist()
        assert cut.token_ids[kept:].tolist() == whole.token_ids[-after:].tolist()


def test_from_the_left_the_end_of_a_document_is_kept() -> None:
    one = encoder(GEMMA.prompt, 200)
    whole = encoder(GEMMA.prompt, 8192).encode("query", [LONG])[0]
    (cut,) = one.encode("query", [LONG], Cut(side="left"))
    assert cut.tokens == 200
    assert cut.token_ids[-100:].tolist() == whole.token_ids[-100:].tolist()
    assert cut.token_ids[: cut.prefix].tolist() == whole.token_ids[: whole.prefix].tolist()


def test_a_query_is_cut_only_where_it_has_more_than_half_of_the_window() -> None:
    window = 400
    one = encoder(max_length=window)
    (pair,) = one.encode(LONG, ["short"])
    assert (pair.query_truncated, pair.truncated) == (True, False)
    # What ends the query is kept, so the prompt reads as without the cut.
    text = Tokenizer.from_str(qwen_tokenizer()).decode(pair.token_ids.tolist(), skip_special_tokens=False)
    assert "\n<Document>: short<|im_end|>" in text
    assert pair.tokens <= window
    half = " the" * 120
    assert window // 4 < len(one.query(half).token_ids) <= window // 2
    assert not one.encode(half, ["short"])[0].query_truncated


def test_kept_says_where_a_document_was_cut() -> None:
    for known in KNOWN:
        one = encoder(known.prompt, 200)
        document = f"  {LONG}"
        kept = one.kept("query", document)
        assert kept is not None
        shorter = one.encode("query", [document[:kept]])[0]
        assert not shorter.truncated
        assert shorter.token_ids.tolist() == one.encode("query", [document])[0].token_ids.tolist()
        assert one.kept("query", "short") is None


def test_a_pair_that_may_not_be_cut_is_counted_with_its_prompt() -> None:
    tokens = encoder(max_length=8192).encode("query", [LONG])[0].tokens
    with pytest.raises(TooLongError) as raised:
        encoder(max_length=1024).encode("query", [LONG], Cut(allowed=False))
    assert (raised.value.tokens, raised.value.limit) == (tokens, 1024)


def test_instructions() -> None:
    one = encoder()
    assert one.instruction == QWEN3.prompt.instruction
    default, own = one.encode("q", ["d"])[0], one.encode("q", ["d"], instruction="Find code")[0]
    again = one.encode("q", ["d"], instruction=one.instruction)[0]
    assert default.token_ids.tolist() == again.token_ids.tolist() != own.token_ids.tolist()
    several = one.join(one.queries(["q", "q", "r"], instruction=["Find code", None, "Find code"]), ["d"] * 3)
    assert several[0].token_ids.tolist() == own.token_ids.tolist()
    assert several[1].token_ids.tolist() == default.token_ids.tolist()
    assert several[2].token_ids.tolist() != own.token_ids.tolist()
    text = Tokenizer.from_str(qwen_tokenizer()).decode(own.token_ids.tolist(), skip_special_tokens=False)
    assert "<Instruct>: Find code\n<Query>: q\n" in text


def test_an_instruction_that_may_be_left_out() -> None:
    for known in (MXBAI, ZERANK):
        one = encoder(known.prompt)
        assert one.instruction == ""
        none, empty = one.encode("q", ["d"])[0], one.encode("q", ["d"], instruction="")[0]
        assert none.token_ids.tolist() == empty.token_ids.tolist()
        text = Tokenizer.from_str(qwen_tokenizer()).decode(
            one.encode("q", ["d"], instruction="find it")[0].token_ids.tolist()
        )
        assert "find it" in text


def test_a_model_without_an_instruction_refuses_one() -> None:
    with pytest.raises(InputError, match="takes no instruction"):
        encoder(GEMMA.prompt).encode("q", ["d"], instruction="Find it")


def test_an_instruction_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(InputError, match="the instruction is too long"):
        encoder(max_length=200).encode("q", ["d"], instruction=LONG)
    with pytest.raises(InputError, match="too few; it takes at least"):
        encoder().encode("q", ["d"], Cut(pair=100), instruction=LONG[:300])


def test_a_window_must_hold_the_prompt() -> None:
    with pytest.raises(InputError, match=r"max_length is 50; it must be at least \d+: the prompt's tokens"):
        encoder(max_length=50)


@pytest.mark.parametrize("parts", [("{document} {query}",), ("{query}",), ("{query} {document} {document}",)])
def test_prompts_that_are_not_a_query_before_a_document(parts: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedModelError, match="the query and the document behind it"):
        encoder(Prompt(parts))


def test_texts_that_run_into_one_another_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be tokenised apart"):
        encoder(Prompt(("q:{query}{document}",)))


def test_a_pack_holds_each_prefix_once() -> None:
    one = encoder()
    pairs = [*one.encode("a", ["x", "y z", ""]), *one.encode("b", ["x"]), *one.encode("a", ["again"])]
    pack = build_pack(pairs)
    assert pack.prefix_ids is not None
    assert pack.prefix_offsets is not None
    assert pack.prefix_of is not None
    assert pack.prefix_of.tolist() == [0, 0, 0, 1, 0]
    assert np.diff(pack.prefix_offsets).tolist() == [pairs[0].prefix, pairs[3].prefix]
    assert pack.lengths.tolist() == [pair.tokens - pair.prefix for pair in pairs]
    whole = pack.whole()
    assert whole.prefix_of is None
    found = np.split(whole.token_ids, whole.offsets[1:-1])
    assert [ids.tolist() for ids in found] == [pair.token_ids.tolist() for pair in pairs]
    assert whole.whole() is whole
