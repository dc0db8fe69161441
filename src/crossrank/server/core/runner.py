"""One pack through an engine: what it gives, what it lacks memory for, what it fails on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from crossrank.engines import Engine
from crossrank.errors import EngineError, InputError, OutOfMemoryError
from crossrank.packing import build_pack
from crossrank.server.core.job import Job, WaitingPair
from crossrank.server.core.metrics import Metrics
from crossrank.server.core.model import Model

__all__ = ["run_pack"]

_logger = logging.getLogger(__name__)

Outcome = npt.NDArray[np.float32] | EngineError | InputError


def run_pack(
    model: Model, engine: Engine, pack: list[WaitingPair], metrics: Metrics
) -> Iterator[tuple[list[WaitingPair], Outcome]]:
    """Run a pack. Where memory does not suffice, its halves, and later packs are no larger. Where the
    engine refuses what is in it, each request's pairs by themselves, and then each pair, so that nobody
    fails for another's texts.

    Yields:
        Parts of the pack, each with float32 (len(part),) logits or an error: InputError for a
        pair that the engine refuses and OutOfMemoryError for one that does not fit alone (the engine
        is as it was), or another EngineError (the engine may be broken).
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
        model.max_tokens = max(1, min(model.max_tokens, tokens // 2))
        metrics.out_of_memory(model.name)
        _logger.warning(
            "%s: a pack of %d tokens does not fit into memory; from now on at most %d",
            model.name,
            tokens,
            model.max_tokens,
        )
        middle = (len(pack) + 1) // 2
        parts = [pack[:middle], pack[middle:]]
    except InputError as error:
        if len(pack) == 1:
            yield pack, _of_pair(pack[0], error)
            return
        parts = _by_request(pack)
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
    # Outside of the handler, or the parts would run while the error holds its memory.
    for part in parts:
        if not all(each.job.ended for each in part):
            yield from run_pack(model, engine, part, metrics)


def _by_request(pack: list[WaitingPair]) -> list[list[WaitingPair]]:
    """The pairs of each request; of a single request, each pair."""
    parts: dict[Job, list[WaitingPair]] = {}
    for each in pack:
        parts.setdefault(each.job, []).append(each)
    return list(parts.values()) if len(parts) > 1 else [[each] for each in pack]


def _of_pair(pair: WaitingPair, error: InputError) -> InputError:
    """What the engine says of the only pair of its pack, said of that pair of its request."""
    message = str(error)
    what = message.removeprefix("pair 0 ") if message.startswith("pair 0 ") else f"is refused: {message}"
    return InputError(f"pair {pair.index} {what}")
