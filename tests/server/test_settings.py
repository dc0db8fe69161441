from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossrank.errors import InputError
from crossrank.server.http.auth import keys_of
from crossrank.server.settings import Limits, Settings
from tests.server.http.test_auth import kind


def test_models_are_called_by_their_source_or_a_name() -> None:
    settings = Settings(models=["crossrank-mini", "rerank-v3.5=BAAI/bge-reranker-v2-m3", "x=/a=b"])
    assert [(spec.name, spec.source) for spec in settings.specs()] == [
        ("crossrank-mini", "crossrank-mini"),
        ("rerank-v3.5", "BAAI/bge-reranker-v2-m3"),
        ("x", "/a=b"),
    ]


def test_a_model_is_loaded_with_the_options() -> None:
    settings = Settings(models=["a=crossrank-mini"], model_options={"max_length": 77, "precision": "fp32"})
    loaded = settings.specs()[0].load()
    assert (loaded.encoder.max_length, loaded.engine.precision) == (77, "fp32")


def test_a_first_model_is_served_too() -> None:
    options = {"max_length": 77, "precision": "fp32", "device": "cpu", "instruction": "i"}
    settings = Settings(models=["a=b"], first="c=crossrank-mini", keep=0.5, model_options=options)
    assert [(spec.name, spec.source) for spec in settings.specs()] == [("a", "b"), ("c", "crossrank-mini")]
    # Of the options, only those that say where a model runs are for both.
    assert settings.specs()[1].load().encoder.max_length == 512
    registry = settings.registry()
    assert (registry.first, registry.keep) == ("c", 0.5)
    both = Settings(models=["a=b", "c=d"], first="c=d")
    assert [spec.name for spec in both.specs()] == ["a", "c"]


def test_an_alias_is_another_name_of_a_model() -> None:
    models = ["a=b", "BAAI/bge-reranker-v2-m3"]
    settings = Settings(models=models, aliases=["rerank-v3.5=BAAI/bge-reranker-v2-m3", "c=a", "d=a"])
    found = settings.registry().models()
    assert [(model.name, model.source, model.alias_of) for model in found] == [
        ("a", "b", None),
        ("BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3", None),
        ("rerank-v3.5", "BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3"),
        ("c", "b", "a"),
        ("d", "b", "a"),
    ]
    first = Settings(models=["a"], first="b=crossrank-mini", aliases=["small=b"])
    assert first.names_of_aliases() == {"small": "b"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"aliases": ["a"]}, "--alias 'a' is not ALIAS=NAME"),
        ({"aliases": ["a="]}, "--alias 'a=' is not ALIAS=NAME"),
        ({"aliases": ["=a"]}, "--alias '=a' is not ALIAS=NAME"),
        ({"models": ["m", "n"], "aliases": ["a=b"]}, "--alias a=b: no model 'b' is served; there is: m, n"),
        # An alias is of a model, not of another alias.
        ({"models": ["m"], "aliases": ["a=m", "b=a"]}, "--alias b=a: no model 'a' is served"),
        ({"models": ["m", "n"], "aliases": ["m=n"]}, "--alias m=n: 'm' is already the name of a model"),
        ({"models": ["m", "n"], "aliases": ["a=m", "a=n"]}, "--alias a=n: 'a' is already the name"),
        ({"models": ["=x"]}, "is not SOURCE or NAME=SOURCE"),
        ({"models": ["x="]}, "is not SOURCE or NAME=SOURCE"),
        ({"models": ["a", "a=b"]}, "two models are called 'a'"),
        ({"models": ["a", "b"], "model_options": {"revision": "r"}}, "--revision is of one model"),
        ({"models": ["a", "b"], "model_options": {"instruction": "i"}}, "--instruction is of one model"),
        ({"first": "=x"}, "--first '=x' is not SOURCE or NAME=SOURCE"),
        ({"first": "crossrank-mini"}, "--first crossrank-mini is the server's only model; give another"),
        (
            {"models": ["a", "b=c"], "first": "b"},
            "two models are called 'b'; name one of them: --first NAME=b",
        ),
        ({"models": ["a"], "first": "b", "keep": 0}, "keep is 0; it must be"),
        ({"dialect": "klingon"}, "'klingon' is not one of cohere, jina, vllm, xinference, infinity, voyage"),
        ({"cors_origins": ["example.org"]}, "--cors-origin 'example.org' is none"),
        ({"cors_origins": ["https://a/b"]}, "--cors-origin 'https://a/b' is none"),
        ({"allowed_hosts": ["http://a.b"]}, "--allowed-host 'http://a.b' is none"),
        ({"allowed_hosts": ["a.b:80"]}, "--allowed-host 'a.b:80' is none"),
        ({"allowed_hosts": ["*.a.b"]}, "--allowed-host '[*].a.b' is none"),
        ({"port": 65536}, "port 65536"),
        ({"port": -1}, "port -1"),
        ({"limits": Limits(max_body_bytes=0)}, "--max-body is 0"),
        ({"limits": Limits(max_body_bytes=9, max_bodies_bytes=17)}, "--max-bodies is 17; .* at least .* 18"),
        ({"limits": Limits(max_documents=0)}, "--max-documents is 0"),
        ({"limits": Limits(max_connections=0)}, "--max-connections is 0"),
        ({"limits": Limits(max_document_chars=0)}, "--max-document-chars is 0"),
        ({"max_concurrent_requests": 0}, "--max-concurrent-requests is 0"),
        ({"max_client_requests": 0}, "--max-client-requests is 0"),
        ({"max_queue_tokens": 0}, "--max-queue-tokens is 0"),
        ({"limits": Limits(timeout=0)}, "--timeout is 0"),
        ({"limits": Limits(timeout=float("nan"))}, "--timeout is nan"),
        ({"limits": Limits(read_timeout=-1)}, "--read-timeout is -1"),
        ({"limits": Limits(write_timeout=0)}, "--write-timeout is 0"),
        ({"drain_timeout": -1}, "--drain-timeout is -1"),
    ],
)
def test_what_is_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**wrong)


def test_the_registry_has_the_numbers() -> None:
    options = Settings(max_queue_tokens=123, score_cache_bytes=456).registry().options
    assert (options.max_queue_tokens, options.score_cache_bytes) == (123, 456)


def test_keys_come_from_options_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("two\n")
    settings = Settings(api_keys=[" one "], api_key_file=file, admin_key=" boss\n")
    assert settings.has_keys
    for key in ("one", "two", "boss"):
        assert kind(keys_of(settings), f"Bearer {key}") == "allowed"
    assert kind(keys_of(settings), "Bearer three") == "unauthorized"
    assert not Settings(admin_key="boss").has_keys


def test_an_empty_key_is_none() -> None:
    with pytest.raises(InputError, match="an API key is empty"):
        keys_of(Settings(api_keys=[" "]))


def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("schlüssel\n")
    for settings in (Settings(api_keys=["clé"]), Settings(api_key_file=file), Settings(admin_key="钥匙")):
        with pytest.raises(InputError, match="characters beyond ASCII"):
            keys_of(settings)
