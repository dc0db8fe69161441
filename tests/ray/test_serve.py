"""The server on a real Ray Serve on this machine."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from crossrank import InputError, Reranker
from crossrank.ray import deployment
from crossrank.server.settings import Settings
from tests.checkpoints import CORPUS


@pytest.fixture(scope="module")
def url(_cluster: None, folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = Settings(models=[f"tiny={folder}"], model_options={"precision": "fp32"}, api_keys=["key"])
    quick = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 1,
        "upscale_delay_s": 0.5,
        "metrics_interval_s": 0.2,
        "look_back_period_s": 1.0,
    }
    serve.run(deployment(settings, autoscaling=quick, cpus=1), name="crossrank", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()  # type: ignore[no-untyped-call]


def ask(url: str, body: Any = None, key: str = "key") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def refusal(url: str, body: Any, key: str = "key") -> int:
    """The status of an answer that is an error."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{url}/v1/rerank", body, key)
    # It is the answer too, whose socket stays open until it is closed.
    with refused.value as answer:
        return answer.code


def replicas() -> dict[str, str]:
    """Replica -> state."""
    found = serve.status().applications["crossrank"].deployments["crossrank"].replica_states
    return {str(state): str(count) for state, count in found.items()}


def test_answers_are_the_librarys(url: str, folder: Path) -> None:
    ranking = Reranker(folder, precision="fp32", device="cpu").rank(CORPUS[0], CORPUS[1:9])
    answer = ask(f"{url}/v1/rerank", {"query": CORPUS[0], "documents": CORPUS[1:9]})
    assert answer["model"] == "tiny"
    assert [result["index"] for result in answer["results"]] == [hit.index for hit in ranking]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == pytest.approx([hit.score for hit in ranking], abs=1e-6)


def test_errors_and_health_are_the_servers(url: str) -> None:
    assert ask(f"{url}/health") == {"status": "ready"}
    assert refusal(url, {"query": "q", "documents": ["d"]}, key="wrong") == 401
    assert refusal(url, {"query": "q", "documents": ["d"], "model": "other"}) == 404


def test_replicas_are_added_under_load(url: str) -> None:
    body = {"query": CORPUS[0], "documents": CORPUS * 20}
    stop = threading.Event()
    failures: list[BaseException] = []

    def client() -> None:
        while not stop.is_set():
            try:
                assert len(ask(f"{url}/v1/rerank", body)["results"]) == len(body["documents"])
            except BaseException as error:  # noqa: BLE001, PERF203 - told below
                failures.append(error)
                return

    clients = [threading.Thread(target=client) for _ in range(6)]
    for thread in clients:
        thread.start()
    try:
        deadline = time.monotonic() + 60
        while replicas().get("RUNNING") != "2" and time.monotonic() < deadline:
            time.sleep(0.2)
        seen = replicas()
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert not failures
    assert seen.get("RUNNING") == "2"


def test_a_killed_replica_is_replaced(url: str) -> None:
    victim = next(
        actor
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith("SERVE_REPLICA::crossrank#crossrank")
    )
    ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]))
    body = {"query": CORPUS[0], "documents": CORPUS[1:4]}
    deadline = time.monotonic() + 60
    while True:
        try:
            assert len(ask(f"{url}/v1/rerank", body)["results"]) == 3
            break
        except (urllib.error.URLError, TimeoutError):
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize(("cores", "cpus"), [(1, 1), (2, 2), (64, 4)])
def test_a_replica_fits_this_machine(cores: int, cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    replica: Any = deployment()._bound_deployment
    assert replica.ray_actor_options["num_cpus"] == cpus
    assert replica.init_args[0].model_options["threads"] == cpus


def test_options_that_are_wrong() -> None:
    with pytest.raises(InputError, match="not both"):
        deployment(replicas=1, autoscaling={"max_replicas": 2})
    with pytest.raises(InputError, match="replicas is 0"):
        deployment(replicas=0)
    with pytest.raises(InputError, match="cpus is 0"):
        deployment(cpus=0)
