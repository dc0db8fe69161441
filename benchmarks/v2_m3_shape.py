"""A checkpoint of BAAI/bge-reranker-v2-m3's exact shape with random weights, and a check with it.

24 layers of 1024, 16 heads, feed-forward 4096, 250,002 pieces, 8,194 positions: 568 million
weights, 2.3 GB in fp32. It costs what the real model costs; its scores mean nothing.

    python -m benchmarks.v2_m3_shape write build/bge-reranker-v2-m3
    python -m benchmarks.v2_m3_shape check build/bge-reranker-v2-m3 --data ../shared/data

``check`` loads it as a user would: from its folder, from ./models/, and from a hub on this
machine (tests/hub.py, through the real huggingface-hub client), scores 100 real question-passage
pairs each time, and compares the logits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.contest.models import write_random, write_xlm_roberta_tokenizer

ROOT = Path(__file__).resolve().parents[1]

# https://huggingface.co/BAAI/bge-reranker-v2-m3, config.json.
CONFIG = {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "classifier_dropout": None,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 8194,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "output_past": True,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "type_vocab_size": 1,
    "use_cache": True,
    "vocab_size": 250002,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint, by transformers' name."""
    h, f = 1024, 4096
    found: dict[str, tuple[int, ...]] = {
        "roberta.embeddings.word_embeddings.weight": (250002, h),
        "roberta.embeddings.position_embeddings.weight": (8194, h),
        "roberta.embeddings.token_type_embeddings.weight": (1, h),
        "roberta.embeddings.LayerNorm.weight": (h,),
        "roberta.embeddings.LayerNorm.bias": (h,),
        "classifier.dense.weight": (h, h),
        "classifier.dense.bias": (h,),
        "classifier.out_proj.weight": (1, h),
        "classifier.out_proj.bias": (1,),
    }
    matrices = {
        "attention.self.query": (h, h),
        "attention.self.key": (h, h),
        "attention.self.value": (h, h),
        "attention.output.dense": (h, h),
        "intermediate.dense": (f, h),
        "output.dense": (h, f),
    }
    for layer in range(24):
        prefix = f"roberta.encoder.layer.{layer}."
        for name, shape in matrices.items():
            found[f"{prefix}{name}.weight"] = shape
            found[f"{prefix}{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found[f"{prefix}{name}.weight"] = found[f"{prefix}{name}.bias"] = (h,)
    return found


def write(folder: Path, work: Path) -> None:
    write_random(folder, CONFIG, shapes())
    write_xlm_roberta_tokenizer(folder, work)


def real_pairs(data: Path, count: int) -> list[tuple[str, str]]:
    """Questions of CMRC 2018 with the passage that they were asked about."""
    articles = json.loads((data / "cmrc2018" / "trial.json").read_text())["data"]
    pairs = [(p["qas"][0]["question"], p["context"]) for a in articles for p in a["paragraphs"]]
    return pairs[:count]


def check(folder: Path, data: Path, precision: str) -> None:
    # Before crossrank and huggingface_hub are imported: a cache and a working folder of its own.
    folder = folder.resolve()
    pairs = real_pairs(data, 100)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        os.environ["HF_HOME"] = str(Path(temporary) / "hf")
        os.chdir(temporary)
        from crossrank import Reranker
        from tests.hub import Hub

        def score(how: str, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            began = time.perf_counter()
            reranker = Reranker(name, precision=precision)  # type: ignore[arg-type]
            loaded = time.perf_counter()
            logits = reranker.logits(pairs)
            done = time.perf_counter()
            print(
                f"{how}: loaded in {loaded - began:.1f} s, {len(pairs)} pairs in {done - loaded:.1f} s "
                f"({reranker.engine.name}, {reranker.engine.device}, {reranker.engine.precision})",
                flush=True,
            )
            return logits

        first = score("a folder", str(folder))
        Path("models").mkdir()
        Path("models/bge-reranker-v2-m3").symlink_to(folder)
        second = score("./models/", "BAAI/bge-reranker-v2-m3")
        Path("models/bge-reranker-v2-m3").unlink()
        with Hub() as hub:
            os.environ["HF_ENDPOINT"] = hub.url
            hub.add("BAAI/bge-reranker-v2-m3", folder)
            third = score("a hub", "BAAI/bge-reranker-v2-m3")
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    spread = float(np.std(first))
    print(f"the same {len(pairs)} logits three times (standard deviation {spread:.3f}), {platform.machine()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["write", "check"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/training"), help="for downloads")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.folder, arguments.work)
    else:
        check(arguments.folder, arguments.data.resolve(), arguments.precision)


if __name__ == "__main__":
    main()
