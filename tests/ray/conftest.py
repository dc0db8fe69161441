"""A real Ray cluster on this machine, for the tests of one module."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.checkpoints import write_xlm_roberta

# Ray's own, of its own insides.
_RAYS = (
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in _RAYS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("ray") / "tiny")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    # Serve ends a proxy that has not started in five seconds, which a busy machine may take.
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=100_000_000,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()
