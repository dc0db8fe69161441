"""llama.cpp: Q8_0 with its reranking head, through llama-cpp-python's C interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Pair, Side, replaced

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


class LlamaCppQ8(Side):
    converts = "llama-q8"
    seats = 64
    tokens = 4096

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
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
        with replaced(self.folder) as partial:
            writer = GGUFWriter(partial / "model.gguf", "bert")
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
        options.n_ctx = options.n_batch = options.n_ubatch = self.tokens
        options.n_seq_max = self.seats
        options.n_threads = options.n_threads_batch = self.threads
        options.embeddings = True
        options.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_RANK
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context; its message stands above")
        self.batch = llama_cpp.llama_batch_init(self.tokens, 0, 1)

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        slots = self.batch
        n = 0
        for seat, pair in enumerate(batch):
            for position, token in enumerate(pair.token_ids.tolist()):
                slots.token[n], slots.pos[n] = token, position
                slots.n_seq_id[n], slots.seq_id[n][0], slots.logits[n] = 1, seat, 1
                n += 1
        slots.n_tokens = n
        if self.library.llama_encode(self.context, slots):
            raise RuntimeError("llama_encode failed")
        get = self.library.llama_get_embeddings_seq
        return np.array([get(self.context, seat)[0] for seat in range(len(batch))], np.float32)
