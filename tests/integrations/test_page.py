"""The code of docs/integrations.md does what the page says, in both languages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest
from haystack import Document as HaystackDocument
from haystack import Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode

from tests.integrations.test_mteb import Task

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("integrations.md", "integrations.zh-CN.md")]
TEXTS = [
    "Most of the Amazon forest, 60 %, is in Brazil.",
    "The Amazon represents over half of the planet's remaining rainforests.",
    "In which country do most people live?",
    "Kenya is a country in Africa.",
]
QUESTION = "In what country can most of the Amazon rainforest be found?"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def block(module: str) -> str:
    [found] = [code for code in blocks(PAGES[0], "python") if f"crossrank.integrations.{module} " in code]
    return found


def execute(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, "integrations.md", "exec"), names)
    return names


@pytest.mark.parametrize("language", ["python", "sh", "text"])
def test_both_languages_have_the_same_code(language: str) -> None:
    english, chinese = (blocks(page, language) for page in PAGES)
    assert english == chinese
    assert english


def test_the_example_prints_what_is_shown() -> None:
    """All but the scores, and the order below the first, which the next model may change."""
    [command] = [line for code in blocks(PAGES[0], "sh") for line in code.splitlines() if "rag.py" in line]
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    [shown] = blocks(PAGES[0], "text")
    heads = [text.split("\n\nafter: CrossRank\n1  ") for text in (shown, done.stdout)]
    assert heads[0][0] == heads[1][0]
    first = [re.sub(r"^0\.\d+ ", "", after.splitlines()[0]) for _, after in heads]
    assert first[0] == first[1]


# Of what is imported: what is installed for it. The rest comes with these, or with crossrank itself.
DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "haystack": "haystack-ai",
    "langchain_classic": "langchain-classic",
    "langchain_core": "langchain-core",
    "llama_index": "llama-index-core",
    "mteb": "mteb",
    "pyterrier": "pyterrier",
}


def needed(code: str) -> set[str]:
    """What a program imports, the examples' rag.py followed; and a client, since --model may be a URL."""
    imported = set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE))
    rag = needed((ROOT / "examples" / "rag.py").read_text(encoding="utf-8")) if "rag" in imported else set()
    return rag | {"httpx"} | {DISTRIBUTIONS[name] for name in imported & DISTRIBUTIONS.keys()}


def installed(command: str) -> set[str]:
    """What an install line names, by itself or in CrossRank's extras."""
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = set()
    for word in shlex.split(command)[2:]:
        extras = re.fullmatch(r"(?:\.|crossrank)\[(.*)\]", word)
        if extras is None:
            found.add(re.split("[>=;]", word)[0])
            continue
        for extra in extras[1].split(","):
            [listed] = re.findall(rf"^{extra} = \[(.*)\]$", metadata, re.MULTILINE)
            found |= installed("pip install " + listed.replace('", "', '" "'))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_install_lines_have_all_that_is_imported(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = dict(re.findall(r"`(crossrank\.integrations\.\w+)\.\w+` \| `(pip install .*?)`", text))
    lines |= dict(re.findall(r"`examples/(\w+\.py)` \| `(pip install .*?)`", text))
    [command] = [line for code in blocks(page, "sh") for line in code.splitlines() if "pip install" in line]
    lines["rag.py"] = command
    assert len(lines) == 10
    for what, line in lines.items():
        if what.endswith(".py"):
            code = (ROOT / "examples" / what).read_text(encoding="utf-8")
            assert line.removeprefix("pip install ") in code.split('"""')[1]
        else:
            code = block(what.rpartition(".")[2])
        assert needed(code) <= installed(line), what


def test_langchain(capsys: pytest.CaptureFixture[str]) -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(text) for text in TEXTS])
    execute(block("langchain"), store=store)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(rf"0\.\d+ False {re.escape(TEXTS[0])}", lines[0])


def test_llamaindex(capsys: pytest.CaptureFixture[str]) -> None:
    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=MockEmbedding(embed_dim=8))
    as_query_engine = index.as_query_engine
    index.as_query_engine = lambda **options: as_query_engine(llm=MockLLM(), **options)
    execute(block("llamaindex"), index=index)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(rf"0\.\d+ [\d.]+ False {re.escape(TEXTS[0])}", lines[0])


def test_haystack(capsys: pytest.CaptureFixture[str]) -> None:
    store = InMemoryDocumentStore()
    store.write_documents([HaystackDocument(content=text) for text in TEXTS])
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store))
    names = execute(block("haystack"), pipeline=pipeline)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(rf"0\.\d+ False {re.escape(TEXTS[0])}", lines[0])
    assert names["again"].to_dict() == pipeline.to_dict()
    assert "# Haystack 2: without allowed_modules" in block("haystack")


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
def test_pyterrier() -> None:
    topics = pd.DataFrame({"qid": ["1"], "query": [QUESTION]})
    found = pd.DataFrame(
        {"qid": "1", "query": QUESTION, "docno": list("dcba"), "score": range(4, 0, -1), "rank": range(4)}
    )
    by_name = dict(zip("abcd", TEXTS, strict=True))

    class Index:
        """Terrier's own needs Java."""

        def text_loader(self, fields: Any, **_: Any) -> Any:
            return pt.apply.text(lambda row: by_name[row["docno"]])

    qrels = pd.DataFrame({"qid": ["1"], "docno": ["a"], "label": [1]})
    code = block("pyterrier").replace('["ndcg_cut_10"])', '["ndcg_cut_10"], plan="tree")')
    names = execute(
        "table = None\n" + code.replace("pt.Experiment", "table = pt.Experiment"),
        bm25=pt.Transformer.from_df(found),
        index=Index(),
        topics=topics,
        qrels=qrels,
    )
    assert names["table"]["ndcg_cut_10"].tolist() == [pytest.approx(0.4307, abs=1e-4), 1.0]


def test_mteb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    code = block("mteb").replace('mteb.get_tasks(["SciDocsRR"])', "task, cache=None, co2_tracker=False")
    results = execute(code, task=Task())["results"]
    assert 0 < results.task_results[0].get_score() <= 1
