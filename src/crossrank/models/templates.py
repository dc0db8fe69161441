"""Language models that rank by their answer: what they are asked, and which tokens of the answer count.

What a folder says itself comes first: sentence-transformers (5.4 and newer) saves such a model with a module
LogitScore, which names the tokens, and a chat template with the roles system (the instruction), query and
document. Otherwise the model is one of ``KNOWN``, whose facts are from its authors' code: it is known by its
name, by the model that its README.md or config.json names, or by its sizes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossrank.errors import CheckpointError
from crossrank.models.chat_template import LONGEST, read_chat_prompt
from crossrank.models.files import CARD, check_no_pointer, module_folders
from crossrank.models.prompt import Prompt
from crossrank.models.reader import Config, Module

__all__ = ["KNOWN", "Asked", "Known", "Prompt", "find_asked", "may_rank", "refusal"]


@dataclass(frozen=True, slots=True)
class Asked:
    """How a model is asked.

    Attributes:
        family: for messages.
        prompt: what it is asked.
        tokens: whose logits are its answer: one, or two whose difference counts; none if it is a classifier.
        names: these tokens as text.
    """

    family: str
    prompt: Prompt
    tokens: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A family of which nothing is in its repository.

    Attributes:
        family: for messages.
        pattern: of names, in lower case.
        model_types: its config's.
        prompt: what it is asked.
        answers: the tokens whose logits count.
        source: where the facts are from.
    """

    family: str
    pattern: re.Pattern[str]
    model_types: tuple[str, ...]
    prompt: Prompt
    answers: tuple[str, ...]
    source: str


_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each "
    "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
    "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
_MXBAI = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n",
    "query: {query}",
    "\n",
    "document: {document}",
    "\n",
    _TASK,
    "<|im_end|>\n<|im_start|>assistant\n",
)
_ZERANK = (
    "<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n{document}<|im_end|>\n<|im_start|>assistant\n"
)

KNOWN = (
    Known(
        "Qwen3-Reranker",
        re.compile(r"qwen3-reranker"),
        ("qwen3",),
        Prompt(
            (
                "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
                'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
                "<|im_start|>user\n",
                "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
                "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            ),
            "Given a web search query, retrieve relevant passages that answer the query",
            max_length=LONGEST,
        ),
        ("yes", "no"),
        "README.md of github.com/QwenLM/Qwen3-Embedding, its code for transformers",
    ),
    Known(
        "bge-reranker-v2-gemma",
        re.compile(r"bge-reranker-v2-gemma"),
        ("gemma",),
        Prompt(
            (
                "<bos>",
                "A: {query}",
                "\n",
                "B: {document}",
                "\n",
                "Given a query A and a passage B, determine whether the passage contains an answer to the "
                "query by providing a prediction of either 'Yes' or 'No'.",
            ),
            max_length=550,
        ),
        ("Yes",),
        "FlagEmbedding/inference/reranker/decoder_only/base.py of github.com/FlagOpen/FlagEmbedding",
    ),
    Known(
        "mxbai-rerank-v2",
        re.compile(r"mxbai-rerank-(base|large)-v2"),
        ("qwen2",),
        Prompt(
            (_MXBAI[0], "instruction: {instruction}\nquery: {query}", *_MXBAI[2:]),
            "",
            bare=_MXBAI,
            max_length=LONGEST,
        ),
        ("1", "0"),
        "mxbai_rerank/mxbai_rerank_v2.py of github.com/mixedbread-ai/mxbai-rerank",
    ),
    Known(
        "zerank-2",
        re.compile(r"zerank-2"),
        ("qwen3",),
        Prompt(
            (_ZERANK.replace("{query}", "<query>{query}</query>\n<instruction>{instruction}</instruction>"),),
            "",
            bare=(_ZERANK,),
            max_length=LONGEST,
            stripped=frozenset({"query", "document"}),
        ),
        ("Yes",),
        "modeling_zeranker.py of huggingface.co/zeroentropy/zerank-2",
    ),
    Known(
        "zerank-1",
        re.compile(r"zerank-1(-small)?"),
        ("qwen3",),
        Prompt((_ZERANK,), max_length=LONGEST, stripped=frozenset({"query", "document"})),
        ("Yes",),
        "modeling_zeranker.py of huggingface.co/zeroentropy/zerank-1",
    ),
)

_REFUSED = (
    (
        r"jina-reranker-v3|jinaforranking",
        "it reads all documents of a query at once, so that a document's score depends on the others",
    ),
    (
        r"lighton-rerank-lw",
        "it orders documents in groups of four, so that a document's place depends on the others",
    ),
    (r"ctxl-rerank", "its prompt has the document before the query"),
    (
        r"minicpm-reranker|minicpm-layerwise|layerwiseminicpm",
        "its score is from a layer in the middle, by code of its own",
    ),
    (r"gemma2-lightweight|costwise", "it merges tokens between its layers, by code of its own"),
    (r"nemotron-rerank|llama_?bidirec", "its tokens see those behind them too, by code of its own"),
    (r"qwen3-?vl|jina-reranker-m0", "it also reads images, and its layers differ from a language model's"),
)
"""Names, and why the models cannot be run."""


def refusal(folder: Path, name: str, config: Mapping[str, Any]) -> str:
    """Why a language model cannot be run whatever its folder says; "" if there is no reason."""
    classes = [str(each) for each in config.get("architectures") or ()]
    found = " ".join([*_names(folder, name, config), *classes, str(config.get("model_type"))]).lower()
    return next((reason for pattern, reason in _REFUSED if re.search(pattern, found)), "")


def find_asked(
    folder: Path, name: str, config: Mapping[str, Any], modules: Sequence[Module], *, classifier: bool
) -> Asked | None:
    """How a model is asked; None if nothing says it.

    Args:
        folder: the model's.
        name: which its user gave.
        config: the object in config.json.
        modules: all of sentence-transformers' modules after the transformer.
        classifier: it has a head of its own, which makes a score of the last token.

    Raises:
        CheckpointError: a file is damaged, or the tokens of the answer are not in the tokenizer.
        UnsupportedModelError: the chat template cannot be read.
    """
    known = _known(folder, name, config, modules, classifier=classifier)
    logits = next((module for module in modules if module.kind == "LogitScore"), None)
    prompt = None
    if logits is not None or classifier:
        prompt = read_chat_prompt(folder, is_needed=known is None and logits is not None)
    if prompt is not None:
        family = known.family if known else "its own chat template"
        if known is not None:
            prompt = replace(prompt, max_length=min(prompt.max_length, known.prompt.max_length))
        if logits is None or classifier:
            return Asked(family, prompt)
        tokens = _tokens_of(logits)
        return Asked(family, prompt, tokens, tuple(_token_names(folder, tokens)))
    if known is None:
        return None
    if classifier:
        return Asked(known.family, known.prompt)
    return Asked(known.family, known.prompt, _token_ids(folder, known.answers), known.answers)


def may_rank(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a language model's folder says that it is a reranker."""
    kinds = [kind for kind, _ in module_folders(folder)]
    return "LogitScore" in kinds or _known(folder, "", config, kinds, classifier=False) is not None


def _known(
    folder: Path, name: str, config: Mapping[str, Any], modules: Sequence[object], *, classifier: bool
) -> Known | None:
    """The family of a model: by its names, or, for Qwen3-Reranker, by its sizes."""
    kind = config.get("model_type")
    names = [each.lower() for each in _names(folder, name, config)]
    for each in names:
        for known in KNOWN:
            if kind in known.model_types and known.pattern.search(each):
                return known
    # Qwen3's table of words has 151,936 rows; its embedding models and rerankers have one for each token.
    rows = config.get("vocab_size")
    is_trimmed = isinstance(rows, int) and 151_643 <= rows < 151_936
    is_embedding = any("embed" in each for each in names)
    if kind == "qwen3" and is_trimmed and not (modules or classifier or is_embedding):
        return KNOWN[0]
    return None


def _names(folder: Path, name: str, config: Mapping[str, Any]) -> Iterator[str]:
    """What a model may be called: by its user, its config, its folder, the hub's cache, and its README.md."""
    yield name
    yield str(config.get("_name_or_path") or "")
    yield folder.name
    yield from (part for part in folder.parts[-3:] if part.startswith("models--"))
    yield from _names_in_readme(folder)


def _names_in_readme(folder: Path) -> list[str]:
    """The models that README.md names in its front matter (base_model), and its first heading."""
    try:
        text = (folder / CARD).read_bytes()[: 1 << 16].decode("utf-8", "replace")
    except OSError:
        return []
    start, _, rest = text.partition("---")
    front, _, body = rest.partition("\n---") if not start.strip() else ("", "", text)
    found = re.findall(r"^(?:base_model:\s*|\s*-\s+)([\w.-]+/[\w.-]+)\s*$", front, re.MULTILINE)
    heading = re.search(r"^# (.+)$", body, re.MULTILINE)
    return [*found, heading[1]] if heading else found


def _tokens_of(module: Module) -> tuple[int, ...]:
    """The tokens that a LogitScore names."""
    config = Config(module.config, f"{module.path}/config.json")
    true = config.integer("true_token_id", least=0)
    if module.config.get("false_token_id") is None:
        return (true,)
    return true, config.integer("false_token_id", least=0)


def _token_ids(folder: Path, names: Sequence[str]) -> tuple[int, ...]:
    content = _read_tokenizer(folder)
    found = []
    for name in names:
        # A search is thirty times faster than reading 150,000 tokens.
        match = re.search(rb'"%s"\s*:\s*(\d+)' % re.escape(name.encode()), content)
        if match is None:
            raise CheckpointError(
                f"{folder / 'tokenizer.json'} has no token {name!r}, which the model answers with: "
                "it is another model's tokenizer"
            )
        found.append(int(match[1]))
    return tuple(found)


def _token_names(folder: Path, tokens: Sequence[int]) -> list[str]:
    content = _read_tokenizer(folder)
    found = []
    for token in tokens:
        match = re.search(rb'("(?:[^"\\]|\\.){1,64}")\s*:\s*%d\b' % token, content)
        name = "id" if match is None else str(json.loads(match[1]))
        found.append(f"token {token}" if name == "id" else name)  # added tokens have an id, too
    return found


def _read_tokenizer(folder: Path) -> bytes:
    path = folder / "tokenizer.json"
    check_no_pointer(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
