"""One pack through an engine: what it gives, what it lacks memory for, what it fails on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from crossrank.engines import Engine
from crossrank.errors import EngineError, OutOfMemoryError
from crossrank.packing import build_pack
from crossrank.server.job import LoadedModel, WaitingPair
from crossrank.server.metrics import Metrics

__all__ = ["run_pack"]

_logger = logging.getLogger(__name__)

Outcome = npt.NDArray[np.float32] | EngineError


def run_pack(
    model: LoadedModel, engine: Engine, pack: list[WaitingPair], metrics: Metrics
) -> Iterator[tuple[list[WaitingPair], Outcome]]:
    """Run a pack. Where memory does not suffice, its halves, and later packs are no larger.

    Yields:
        Parts of the pack, each with float32 (len(part),) logits or an error: OutOfMemoryError
        for a pair that does not fit alone (the engine is as it was), or another EngineError
        (the engine may be broken).
    """
    try:
        logits = engine.logits(build_pack([each.pair for each in pack]))
    except (OutOfMemoryError, MemoryError) as error:
        if len(pack) == 1:
            yield (
                pack,
                OutOfMemoryError(f"a pair of {pack[0].tokens} tokens does not fit into memory: {error}"),
            )
            return
        tokens = sum(each.tokens for each in pack)
        model.most = max(1, min(model.most, tokens // 2))
        metrics.out_of_memory(model.name)
        _logger.warning(
            "%s: a pack of %d tokens does not fit into memory; from now on at most %d",
            model.name,
            tokens,
            model.most,
        )
    except EngineError as error:
        yield pack, error
        return
    except Exception as error:  # noqa: BLE001 - an engine is anybody's code
        failure = EngineError(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        yield pack, failure
        return
    else:
        if np.shape(logits) == (len(pack),):
            yield pack, np.asarray(logits, np.float32)
        else:
            shape = np.shape(logits)
            yield pack, EngineError(f"the engine gave logits of shape {shape} for {len(pack)} pairs")
        return
    # Outside of the handler, or the halves would run while the error holds its memory.
    middle = (len(pack) + 1) // 2
    yield from run_pack(model, engine, pack[:middle], metrics)
    yield from run_pack(model, engine, pack[middle:], metrics)
