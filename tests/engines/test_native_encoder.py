"""The whole encoder of crossrank._native against transformers, on small random models."""

from __future__ import annotations

import hashlib
import math
import mmap
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from crossrank import _native as native
from crossrank.models.architecture import Architecture, Dense, Function, Learned, Rotary
from crossrank.models.families import describe

ISAS = native.isas()
FAMILIES = ["bert", "roberta", "xlm-roberta"]
SIZES = {
    "vocab_size": 500,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 200,  # not whole panels
    "num_labels": 1,
    "initializer_range": 0.15,
}


class Reference:
    """A random model of transformers and what the native engine needs of it."""

    def __init__(self, family: str, **sizes: Any) -> None:
        torch.manual_seed(3)
        sizes = {**SIZES, "max_position_embeddings": 300, **sizes}
        if family == "bert":
            config = transformers.BertConfig(type_vocab_size=2, **sizes)
            self.model = transformers.BertForSequenceClassification(config)
        else:
            name = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[family]
            config = getattr(transformers, f"{name}Config")(type_vocab_size=1, pad_token_id=1, **sizes)
            self.model = getattr(transformers, f"{name}ForSequenceClassification")(config)
        for parameter in self.model.parameters():  # biases and gains that do something
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0 if parameter.mean() == 1 else 0.0, 0.1)
        self.model.eval()
        self.family = family
        self.vocabulary = int(sizes["vocab_size"])
        stored = {name: t.detach().numpy() for name, t in self.model.state_dict().items()}
        self.architecture, sources = describe(
            self.model.config.to_dict(), "config.json", stored.keys(), labels=1
        )
        self.config = self.architecture.flat()
        self.tensors = {name: stored[source.name] for name, source in sources.items()}

    def pairs(self, lengths: list[int], seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(seed)
        out = []
        for n in lengths:
            ids = rng.integers(5, self.vocabulary, n, dtype=np.int32)
            cut = rng.integers(0, n + 1)
            segments = (
                (np.arange(n) >= cut).astype(np.int32) if self.family == "bert" else np.zeros(n, np.int32)
            )
            out.append((ids, segments))
        return out

    def logits(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        out = []
        with torch.no_grad():
            for ids, segments in pairs:
                extra = (
                    {"token_type_ids": torch.tensor(segments[None].astype(np.int64))}
                    if self.family == "bert"
                    else {}
                )
                mask = torch.ones(1, len(ids), dtype=torch.long)
                ids64 = torch.tensor(ids[None].astype(np.int64))
                out.append(self.model(input_ids=ids64, attention_mask=mask, **extra).logits.item())
        return np.array(out, np.float32)

    def engine(self, precision: str = "fp32", threads: int = 2, isa: str = "") -> Any:
        prepared = native.prepare_weights(self.config, self.tensors, precision, threads)
        return native.Engine(self.config, prepared, precision, threads, isa)


def run(engine: Any, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    offsets = np.zeros(len(pairs) + 1, np.int32)
    np.cumsum([len(ids) for ids, _ in pairs], out=offsets[1:])
    out: np.ndarray = engine.logits(
        np.concatenate([ids for ids, _ in pairs]),
        offsets,
        np.concatenate([segments for _, segments in pairs]),
    )
    return out


@pytest.fixture(scope="module", params=FAMILIES)
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.param)


@pytest.fixture(scope="module")
def xlm_roberta() -> Reference:
    return Reference("xlm-roberta")


LENGTHS = [1, 2, 3, 17, 64, 65, 127, 200, 33, 5, 90]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("isa", ISAS)
def test_fp32_is_transformers(reference: Reference, isa: str, threads: int) -> None:
    pairs = reference.pairs(LENGTHS)
    expected = reference.logits(pairs)
    assert expected.std() > 0.1  # the comparison means something
    np.testing.assert_allclose(run(reference.engine("fp32", threads, isa), pairs), expected, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("precision", "largest"), [("bf16", 0.05), ("int8", 0.16)])
def test_lower_precisions_are_close(reference: Reference, isa: str, precision: str, largest: float) -> None:
    pairs = reference.pairs(LENGTHS * 3)
    expected = reference.logits(pairs)
    got = run(reference.engine(precision, 2, isa), pairs)
    assert np.abs(got - expected).max() <= largest
    assert np.std(got - expected) <= largest / 4


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_logit_does_not_depend_on_its_pack(reference: Reference, isa: str, precision: str) -> None:
    """Bit for bit: alone on all threads, beside others on one thread, and in any order."""
    pairs = reference.pairs(LENGTHS * 2)
    engine = reference.engine(precision, 3, isa)
    together = run(engine, pairs)
    alone = np.concatenate([run(engine, [pair]) for pair in pairs])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(run(engine, pairs[::-1])[::-1], together)
    np.testing.assert_array_equal(run(reference.engine(precision, 1, isa), pairs), together)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("hidden", "heads"), [(96, 3), (576, 9)])
def test_threads_share_what_they_cannot_divide(hidden: int, heads: int, precision: str) -> None:
    """The same bits: long pairs go to all threads by their tokens, in a large model short ones by outputs."""
    reference = Reference("xlm-roberta", hidden_size=hidden, num_attention_heads=heads)
    packs = [
        reference.pairs(n) for n in ([290, 250, 200, *range(2, 60)], [1], [40], [127], [290], [150, 140])
    ]
    one = reference.engine(precision, 1)
    expected = [run(one, pairs) for pairs in packs]
    for threads in (2, 3, 8):
        engine = reference.engine(precision, threads)
        for pairs, logits in 5 * list(zip(packs, expected, strict=True)):  # with threads that come late
            np.testing.assert_array_equal(run(engine, pairs), logits)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_8192_tokens(precision: str) -> None:
    reference = Reference("xlm-roberta", max_position_embeddings=8194, num_hidden_layers=2)
    pairs = reference.pairs([8192, 700, 3])
    engine = reference.engine(precision)
    assert engine.max_tokens == 8192
    got = run(engine, pairs)
    np.testing.assert_allclose(got, reference.logits(pairs), atol=1e-4 if precision == "fp32" else 0.06)
    np.testing.assert_array_equal(run(engine, pairs[:1]), got[:1])


def test_one_layer_and_heads_of_128() -> None:
    reference = Reference("roberta", num_hidden_layers=1, hidden_size=256, num_attention_heads=2)
    pairs = reference.pairs([40, 1, 130])
    np.testing.assert_allclose(run(reference.engine(), pairs), reference.logits(pairs), atol=1e-4)


def test_a_padding_token_inside_a_text_counts_no_position(xlm_roberta: Reference) -> None:
    pairs = xlm_roberta.pairs([30, 20, 200])  # the last one's tokens are shared by both threads
    pairs[0][0][[4, 9, 10, 29]] = 1
    pairs[2][0][[9, 99, 100, 150]] = 1
    np.testing.assert_allclose(run(xlm_roberta.engine(), pairs), xlm_roberta.logits(pairs), atol=1e-4)


def test_empty_pack(xlm_roberta: Reference) -> None:
    out = xlm_roberta.engine().logits(np.zeros(0, np.int32), np.zeros(1, np.int32))
    assert out.shape == (0,)
    assert out.dtype == np.float32


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "4 bits"])
def test_tables_in_fewer_bits(kind: str) -> None:
    reference = Reference("xlm-roberta")
    name = "embedding.words.weight"
    words = reference.tensors[name]
    tensors = dict(reference.tensors)
    if kind == "float16":
        tensors[name] = words.astype(np.float16)
        rounded = tensors[name].astype(np.float32)
    elif kind == "bfloat16":
        tensors[name] = (words.view(np.uint32) >> 16).astype(np.uint16)
        rounded = (tensors[name].astype(np.uint32) << 16).view(np.float32)
    else:
        blocks = words.reshape(len(words), -1, 32)
        scales = np.maximum(np.abs(blocks).max(axis=2) / 7, 1e-3).astype(np.float16)
        halves = np.clip(np.rint(blocks / scales[..., None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
        tensors[name] = (halves[..., :16] | halves[..., 16:] << 4).reshape(len(words), -1)
        tensors[name + ".scales"] = scales
        rounded = ((halves.astype(np.float32) - 8) * scales[..., None].astype(np.float32)).reshape(
            words.shape
        )
    table: Any = reference.model.get_input_embeddings()
    with torch.no_grad():
        table.weight.copy_(torch.from_numpy(rounded))
    prepared = native.prepare_weights(reference.config, tensors, "fp32")
    assert prepared["embedding.words"] is tensors[name]  # not copied
    pairs = reference.pairs([50, 7])
    engine = native.Engine(reference.config, prepared, "fp32", 1)
    np.testing.assert_allclose(run(engine, pairs), reference.logits(pairs), atol=1e-4)


@pytest.mark.parametrize("half", [np.float16, np.uint16])
def test_checkpoints_in_16_bits(xlm_roberta: Reference, half: type) -> None:
    exact = run(xlm_roberta.engine(), xlm_roberta.pairs([50, 7]))
    tensors = {
        name: t.astype(np.float16) if half is np.float16 else (t.view(np.uint32) >> 16).astype(np.uint16)
        for name, t in xlm_roberta.tensors.items()
        if t.dtype == np.float32
    }
    engine = native.Engine(
        xlm_roberta.config, native.prepare_weights(xlm_roberta.config, tensors, "fp32"), "fp32", 1
    )
    np.testing.assert_allclose(
        run(engine, xlm_roberta.pairs([50, 7])), exact, atol=0.02 if half is np.float16 else 0.2
    )


def test_prepared_tensors_survive_being_stored(xlm_roberta: Reference, tmp_path: Any) -> None:
    from safetensors.numpy import load_file, save_file

    prepared = native.prepare_weights(xlm_roberta.config, xlm_roberta.tensors, "int8", 2)
    save_file(
        {name: np.ascontiguousarray(t) for name, t in prepared.items()}, tmp_path / "prepared.safetensors"
    )
    stored = native.Engine(xlm_roberta.config, load_file(tmp_path / "prepared.safetensors"), "int8", 2)
    pairs = xlm_roberta.pairs(LENGTHS)
    np.testing.assert_array_equal(run(stored, pairs), run(xlm_roberta.engine("int8"), pairs))


def test_the_engine_keeps_what_it_reads(xlm_roberta: Reference) -> None:
    prepared = {
        name: t.copy()
        for name, t in native.prepare_weights(xlm_roberta.config, xlm_roberta.tensors, "int8").items()
    }
    engine = native.Engine(xlm_roberta.config, prepared, "int8", 1)
    before = run(engine, xlm_roberta.pairs([40]))
    prepared.clear()
    rubbish = [np.full(1 << 16, 7, np.uint8) for _ in range(200)]
    np.testing.assert_array_equal(run(engine, xlm_roberta.pairs([40])), before)
    del rubbish


def test_read_only_arrays_will_do(xlm_roberta: Reference) -> None:
    tensors = {name: t.copy() for name, t in xlm_roberta.tensors.items()}
    for t in tensors.values():
        t.flags.writeable = False
    prepared = native.prepare_weights(xlm_roberta.config, tensors, "fp32")
    for t in prepared.values():
        t.flags.writeable = False
    pairs = xlm_roberta.pairs([4])
    found = run(native.Engine(xlm_roberta.config, prepared, "fp32", 1), pairs)
    np.testing.assert_array_equal(found, run(xlm_roberta.engine(), pairs))


def test_wrong_packs_are_refused(reference: Reference) -> None:
    engine = reference.engine()
    good = np.array([5, 6, 7], np.int32)

    def logits(ids: Any, offsets: Any, segments: Any = None) -> None:
        engine.logits(np.array(ids, np.int32), np.array(offsets, np.int32), segments)

    with pytest.raises(
        ValueError, match=r"pair 1 has the token id 500; the model has embeddings for 0 to 499"
    ):
        logits([5, 500, 7], [0, 1, 3])
    with pytest.raises(ValueError, match=r"pair 0 has the token id -1"):
        logits([-1], [0, 1])
    with pytest.raises(ValueError, match=r"offsets"):
        logits(good, [0, 2])
    with pytest.raises(ValueError, match=r"offsets"):
        logits(good, [1, 3])
    with pytest.raises(ValueError, match=r"offsets"):
        logits(good, [])
    with pytest.raises(ValueError, match=r"pair 1 has 0 tokens"):
        logits(good, [0, 3, 3])
    with pytest.raises(ValueError, match=r"pair 0 has 5 tokens|pair 1 has -2 tokens"):
        logits(good, [0, 5, 3])
    with pytest.raises(ValueError, match=r"pair 0 has 301 tokens"):
        logits([5] * 301, [0, 301])
    with pytest.raises(ValueError, match=r"segment_ids has 2 elements"):
        logits(good, [0, 3], np.zeros(2, np.int32))
    with pytest.raises(ValueError, match=r"pair 0 has the segment id 2; the model has embeddings for 0 to"):
        logits(good, [0, 3], np.array([0, 0, 2], np.int32))
    with pytest.raises(ValueError, match=r"aligned"):
        engine.logits(np.zeros(13, np.uint8)[1:].view(np.int32), np.array([0, 3], np.int32))
    with pytest.raises(TypeError):
        engine.logits(good.astype(np.float32), np.array([0, 3], np.int32))
    assert np.isfinite(run(engine, reference.pairs([3]))).all()  # and it still works


def test_wrong_weights_are_refused_by_name(xlm_roberta: Reference) -> None:
    config, tensors = xlm_roberta.config, xlm_roberta.tensors
    query = "layer.1.query.weight"
    with pytest.raises(ValueError, match=query + r".* is missing"):
        native.prepare_weights(config, {k: v for k, v in tensors.items() if k != query}, "int8")
    with pytest.raises(ValueError, match=query + r".* is \(96, 95\) float32; it must be \(96, 96\) float32"):
        native.prepare_weights(config, {**tensors, query: np.zeros((96, 95), np.float32)}, "int8")
    for name in tensors:
        if "num_batches" in name or tensors[name].dtype != np.float32:
            continue
        broken = tensors[name].copy()
        broken.flat[-1] = np.nan if len(name) % 2 else np.inf
        with pytest.raises(ValueError, match=name + r".* holds NaN or infinity"):
            native.prepare_weights(config, {**tensors, name: broken}, "int8", 3)

    prepared = native.prepare_weights(config, tensors, "int8")
    for name, tensor in prepared.items():
        with pytest.raises(ValueError, match=name + r".* is missing"):
            native.Engine(config, {k: v for k, v in prepared.items() if k != name}, "int8", 1)
        with pytest.raises(ValueError, match=name):
            native.Engine(config, {**prepared, name: tensor.reshape(-1)[:-1].copy()}, "int8", 1)
    with pytest.raises(ValueError, match=r"panels"):
        native.Engine(config, prepared, "bf16", 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation", "swish"),
        ("heads", 5),
        ("heads", 0),
        ("layers", 0),
        ("hidden", "96"),
        ("vocabulary", None),
        ("padding_id", 2**40),
        ("first_position", 299),
        *[("epsilon", eps) for eps in (math.inf, math.nan, -1e-5, 0.0, 1e-60, 1.0, 1e300, None, "1e-5")],
    ],
)
def test_other_models_are_refused(xlm_roberta: Reference, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        native.prepare_weights({**xlm_roberta.config, key: value}, xlm_roberta.tensors, "fp32")


def test_many_python_threads_at_once(xlm_roberta: Reference) -> None:
    engine = xlm_roberta.engine("int8", 3)
    work = [xlm_roberta.pairs([1 + 13 * i % 90, 20, 40], seed=i) for i in range(24)]
    expected = [run(engine, pairs) for pairs in work]
    got: list[Any] = [None] * len(work)

    def score(i: int) -> None:
        got[i] = run(engine, work[i])

    threads = [threading.Thread(target=score, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for e, g in zip(expected, got, strict=True):
        np.testing.assert_array_equal(g, e)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_calls_overlap_and_give_the_same_bits(xlm_roberta: Reference, threads: int) -> None:
    # Many short pairs, which threads take group by group, beside long ones, for which they stand together.
    engine = xlm_roberta.engine("int8", threads)
    work = [
        xlm_roberta.pairs([90] if i % 3 == 0 else [7 + i % 5] * (1 + 40 * (i % 3)), seed=i) for i in range(12)
    ]
    expected = [run(engine, pairs) for pairs in work]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for e, g in zip(expected, pool.map(lambda pairs: run(engine, pairs), work), strict=True):
                np.testing.assert_array_equal(g, e)


def error_of(call: Callable[[], object]) -> BaseException | None:
    """What a call raises. Where it does not end, the test fails and goes on without that thread."""
    raised: list[BaseException | None] = []

    def run_it() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - the caller looks at it
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=run_it, daemon=True)
    thread.start()
    thread.join(timeout=300)
    assert raised, "the call does not end"
    return raised[0]


@pytest.fixture(scope="module")
def large() -> Reference:
    return Reference("xlm-roberta", hidden_size=576, num_attention_heads=9, num_hidden_layers=2)


@pytest.mark.parametrize("fault", ["the file has become shorter", "Input/output error"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("size", "tokens"), [("small", 200), ("large", 40), ("large", 250)])
def test_a_table_that_cannot_be_read_is_an_error_for_all_threads(
    xlm_roberta: Reference,
    large: Reference,
    tmp_path: Path,
    size: str,
    tokens: int,
    precision: str,
    fault: str,
) -> None:
    """Of one pair, which threads share by its tokens, by outputs (40 tokens), or not at all."""
    reference = {"small": xlm_roberta, "large": large}[size]
    config = reference.config
    prepared = native.prepare_weights(config, reference.tensors, precision, 2)
    words = prepared["embedding.words"]
    path = tmp_path / "words"
    path.write_bytes(words.tobytes())
    ids = np.full(tokens, 5, np.int32)
    ids[tokens // 2 :] = 499  # the first of two threads can read all of its rows
    good = (np.full(tokens, 5, np.int32), np.zeros(tokens, np.int32))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        if fault == "Input/output error":
            # Memory whose file has been cut off, read as a file.
            memory = Path("/proc/self/mem")
            if not memory.exists():
                pytest.skip("no /proc/self/mem here")
            source, start = memory.open("rb", buffering=0), np.frombuffer(mapped, np.uint8).ctypes.data
        else:
            source, start = path.open("rb", buffering=0), 0
        with source:
            for threads in (1, 2, 3):
                engine = native.Engine(config, prepared, precision, threads, "", source.fileno(), start)
                file.truncate(words.nbytes)
                expected = run(engine, [good])
                file.truncate(words.nbytes // 2)
                error = error_of(lambda: run(engine, [(ids, np.zeros(tokens, np.int32))]))  # noqa: B023
                assert isinstance(error, RuntimeError)
                assert str(error) == f"row 499 of the word embeddings cannot be read: {fault}"
                np.testing.assert_array_equal(run(engine, [good]), expected)  # and it still works


def test_a_place_beyond_any_file_is_refused(xlm_roberta: Reference, tmp_path: Path) -> None:
    prepared = native.prepare_weights(xlm_roberta.config, xlm_roberta.tensors, "fp32")
    (tmp_path / "words").write_bytes(b"")
    with (tmp_path / "words").open("rb") as file:
        for start in (-1, 2**63 - 1):
            with pytest.raises(ValueError, match="words_start"):
                native.Engine(xlm_roberta.config, prepared, "fp32", 1, "", file.fileno(), start)


def _score_in_child(engine: Any, pairs: Any, queue: Any) -> None:
    try:
        run(engine, pairs)
        queue.put("scored")
    except RuntimeError as error:
        queue.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_refused_clearly(xlm_roberta: Reference) -> None:
    engine = xlm_roberta.engine("int8", 3)
    run(engine, xlm_roberta.pairs([9]))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_score_in_child, args=(engine, xlm_roberta.pairs([9]), queue))
    child.start()
    assert "forked" in queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0


def plain_values(*shape: int) -> np.ndarray:
    """Values from -2 to 2 that are exact in every type, the same with every numpy."""
    numbers = np.arange(math.prod(shape), dtype=np.int64)
    return ((numbers * 7919 % 257 - 128) / 64).astype(np.float32).reshape(shape)


PREPARED = {
    6: {
        "fp32": "793acbe0dfa74d41c65960da9fd4b0fe02d7ecc0db929ecd99075fe0d28681ce",
        "bf16": "19dd72dd78b7ffb0967dd443af717e365106548d944f58af2e0ba50db7059cac",
        "int8": "9206a7f761036d1c5baeeb64b584e86b6577794014882aa0bc062df216d0177a",
    },
}
"""For each version of prepared weights, a digest of three small models' in each precision."""


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_change_of_prepared_weights_has_a_new_version(precision: str) -> None:
    """Else files in users' caches, made by an older version, would give wrong scores."""
    plain = Architecture(
        family="test",
        hidden=40,
        layers=1,
        heads=2,
        intermediate=72,
        vocabulary=5,
        embedding=40,
        max_tokens=4,
        positions=Learned(6, 2, 1),
        segments=1,
        head=(Dense(40, 40), Function("tanh"), Dense(40, 1)),
    )
    gated = replace(plain, gated=True, embedding=36, norm_first=True, final_norm=True)
    decoder = replace(
        gated, norm="rms", key_value_heads=1, head_norms=True, rotary=(Rotary((1.0,) * 10),), causal=True
    )
    digest = hashlib.sha256()
    for architecture in (plain, gated, decoder):
        tensors = {name: plain_values(*shape) for name, shape in architecture.shapes()}
        prepared = native.prepare_weights(architecture.flat(), tensors, precision)
        for name, tensor in sorted(prepared.items()):
            digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode() + tensor.tobytes())
    assert digest.hexdigest() == PREPARED[native.LAYOUT][precision], (
        "prepared weights have changed: raise kLayout in native/kernels.h, and add the new digests here"
    )


def test_the_module_has_no_kernels_for_tests() -> None:
    """They are in ``_native_test``, which no wheel has."""
    assert {name for name in dir(native) if not name.startswith("_")} == {
        "Engine",
        "MapGuard",
        "LAYOUT",
        "has_fast",
        "isa",
        "isas",
        "prepare_weights",
    }


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_at_least_one(xlm_roberta: Reference, threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads is {threads}; it must be at least 1"):
        native.prepare_weights(xlm_roberta.config, xlm_roberta.tensors, "fp32", threads)
    prepared = native.prepare_weights(xlm_roberta.config, xlm_roberta.tensors, "fp32")
    with pytest.raises(ValueError, match=f"threads is {threads}; it must be at least 1"):
        native.Engine(xlm_roberta.config, prepared, "fp32", threads)
