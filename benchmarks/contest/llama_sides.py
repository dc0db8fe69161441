"""llama.cpp: quantised, with its reranking head, through llama-cpp-python's C interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Pair, Side, replaced
from benchmarks.contest.tokenizers import QWEN_NO, QWEN_YES

# transformers' names of a layer's parts, and llama.cpp's.
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
DECODER_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class LlamaCppQ8(Side):
    converts = "llama-q8"
    seats = 64
    tokens = 4096
    file_type: ClassVar[str] = "LLAMA_FTYPE_MOSTLY_Q8_0"
    """What a decoder is quantised to, by llama.cpp itself."""

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        with replaced(self.folder) as partial:
            if self.decodes:
                self._write_decoder(partial / "f16.gguf")
                self._quantize(partial / "f16.gguf", partial / "model.gguf")
                (partial / "f16.gguf").unlink()
            elif self.config["model_type"] in ("bert", "xlm-roberta"):
                self._write_encoder(partial / "model.gguf")
            else:
                raise RuntimeError(f"this benchmark writes no GGUF of {self.config['architectures'][0]}")

    def _quantize(self, source: Path, target: Path) -> None:
        import llama_cpp

        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = getattr(llama_cpp, self.file_type)
        options.nthread = self.threads
        if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options):
            raise RuntimeError("llama.cpp cannot quantise the model; its message stands above")

    def _write_decoder(self, path: Path) -> None:
        """As llama.cpp's converter writes Qwen3-Reranker: two rows of the output embedding are its head."""
        from gguf import GGUFWriter, PoolingType
        from safetensors import safe_open

        config = self.config
        names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
        for layer in range(config["num_hidden_layers"]):
            for part, short in DECODER_LAYER.items():
                names[f"model.layers.{layer}.{part}"] = f"blk.{layer}.{short}"
        writer = GGUFWriter(path, "qwen3")
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_vocab_size(config["vocab_size"])
        writer.add_tokenizer_model("none")  # it is given token ids
        writer.add_pooling_type(PoolingType.RANK)
        writer.add_classifier_output_labels(["yes", "no"])
        writer.add_file_type(1)  # mostly F16
        with safe_open(self.checkpoint / "model.safetensors", "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - a safe_open is not a mapping
                value = file.get_tensor(name)
                stem = name.removesuffix(".weight")
                writer.add_tensor(
                    f"{names[stem]}.weight", value.astype(np.float16) if value.ndim == 2 else value
                )
                if stem == "model.embed_tokens":
                    writer.add_tensor("cls.output.weight", value[[QWEN_YES, QWEN_NO]])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _write_encoder(self, path: Path) -> None:
        from gguf import GGMLQuantizationType, GGUFWriter, PoolingType
        from gguf.quants import quantize
        from safetensors import safe_open

        config = self.config
        bert = config["model_type"] == "bert"
        names = {
            "embeddings.word_embeddings": "token_embd",
            "embeddings.token_type_embeddings": "token_types",
            "embeddings.LayerNorm": "token_embd_norm",
            "embeddings.position_embeddings": "position_embd",
        }
        for layer in range(config["num_hidden_layers"]):
            for part, short in LAYER.items():
                names[f"encoder.layer.{layer}.{part}"] = f"blk.{layer}.{short}"
        names = {f"{config['model_type'].removeprefix('xlm-')}.{name}": to for name, to in names.items()}
        dense, last = ("bert.pooler.dense", "classifier") if bert else (
            "classifier.dense",
            "classifier.out_proj",
        )  # fmt: skip
        names |= {dense: "cls", last: "cls.output"}
        # RoBERTa's positions begin after the padding's.
        first = 0 if bert else config["pad_token_id"] + 1
        writer = GGUFWriter(path, "bert")
        writer.add_context_length(config["max_position_embeddings"] - first)
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_causal_attention(False)
        writer.add_pooling_type(PoolingType.RANK)
        writer.add_vocab_size(config["vocab_size"])
        writer.add_tokenizer_model("none")  # it is given token ids
        writer.add_token_type_count(config["type_vocab_size"])
        writer.add_classifier_output_labels(["score"])
        writer.add_file_type(7)  # mostly Q8_0
        with safe_open(self.checkpoint / "model.safetensors", "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - a safe_open is not a mapping
                stem, _, kind = name.rpartition(".")
                if stem not in names:
                    continue
                value = file.get_tensor(name).astype(np.float32)
                if names[stem] == "position_embd":
                    value = value[first:]
                form = GGMLQuantizationType.F32
                small = names[stem] in ("position_embd", "token_types", "cls", "cls.output")
                if value.ndim == 2 and not small:
                    form = GGMLQuantizationType.Q8_0
                writer.add_tensor(f"{names[stem]}.{kind}", quantize(value, form), raw_dtype=form)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def load(self) -> None:
        import llama_cpp

        self.library = llama_cpp
        llama_cpp.llama_backend_init()
        path = str(self.folder / "model.gguf").encode()
        options = llama_cpp.llama_model_default_params()
        # Its AMX kernels crash, here in ldtilecfg: https://github.com/ggml-org/llama.cpp/issues/20824
        options.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(path, options)
        if not self.model:
            raise RuntimeError("llama.cpp cannot load the model; its message stands above")
        options = llama_cpp.llama_context_default_params()
        options.n_batch = options.n_ubatch = self.tokens
        # A decoder keeps its keys and values, in one store for all sequences.
        options.n_ctx = self.tokens + 1024 if self.decodes else self.tokens
        options.kv_unified = self.decodes
        options.n_seq_max = self.seats
        options.n_threads = options.n_threads_batch = self.threads
        options.embeddings = True
        options.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_RANK
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context; its message stands above")
        self.batch = llama_cpp.llama_batch_init(self.tokens, 0, 1)

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        if len(batch) > 1 and sum(map(len, batch)) > self.tokens:
            half = len(batch) // 2
            return np.concatenate([self.logits(batch[:half]), self.logits(batch[half:])])
        if self.decodes:
            self._forget()
        self._run([pair.token_ids for pair in batch], 0, 0)
        return np.array([self._logit(seat) for seat in range(len(batch))], np.float32)

    def _forget(self) -> None:
        """Empty the store of keys and values."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), False)

    def _run(self, sequences: Sequence[npt.NDArray[np.int64]], position: int, seat: int) -> None:
        """Sequences in seats from ``seat``, each from the same position."""
        slots = self.batch
        n = 0
        for place, tokens in enumerate(sequences):
            for at, token in enumerate(tokens.tolist()):
                slots.token[n], slots.pos[n] = token, position + at
                slots.n_seq_id[n], slots.seq_id[n][0], slots.logits[n] = 1, seat + place, 1
                n += 1
        slots.n_tokens = n
        run: Any = self.library.llama_decode if self.decodes else self.library.llama_encode
        if run(self.context, slots):
            raise RuntimeError("llama.cpp cannot run the batch; its message stands above")

    def _logit(self, seat: int) -> float:
        found = self.library.llama_get_embeddings_seq(self.context, seat)
        if not self.decodes:
            return float(found[0])
        # Chances of yes and no, which llama.cpp has passed through a softmax.
        with np.errstate(divide="ignore"):
            return float(np.log(np.float64(found[0])) - np.log(np.float64(found[1])))


class LlamaCppQ8Shared(LlamaCppQ8):
    """A query's keys and values are computed once, in a seat of their own, and its documents see them."""

    seats = 65
    prefix: bytes = b""

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        length = batch[0].prefix
        if len(batch) > 1 and sum(len(pair) - length for pair in batch) > self.tokens:
            half = len(batch) // 2
            return np.concatenate([self.logits(batch[:half]), self.logits(batch[half:])])
        memory = self.library.llama_get_memory(self.context)
        prefix = batch[0].token_ids[:length]
        if prefix.tobytes() != self.prefix:
            self._forget()
            self._run([prefix], 0, 0)
            self.prefix = prefix.tobytes()
        for seat in range(1, len(batch) + 1):
            self.library.llama_memory_seq_cp(memory, 0, seat, 0, length)
        self._run([pair.token_ids[length:] for pair in batch], length, 1)
        found = [self._logit(seat) for seat in range(1, len(batch) + 1)]
        for seat in range(1, len(batch) + 1):
            self.library.llama_memory_seq_rm(memory, seat, -1, -1)
        return np.array(found, np.float32)


class LlamaCppQ4(LlamaCppQ8):
    converts = "llama-q4"
    file_type = "LLAMA_FTYPE_MOSTLY_Q4_K_M"
