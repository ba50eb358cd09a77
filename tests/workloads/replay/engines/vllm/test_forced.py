from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm import SamplingParams

from agentcache.vllm_plugin.compat import BatchUpdate, MoveDirectionality
from agentcache_workloads.replay.engines.vllm.forced import KEY, ForcedOutput

VOCABULARY = 16


def said_by(processor: ForcedOutput, rows: int) -> list[int]:
    return processor.apply(torch.zeros(rows, VOCABULARY)).argmax(dim=-1).tolist()


def update(size: int, removed: Any = (), added: Any = (), moved: Any = ()) -> BatchUpdate:
    return BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved)


def added(row: int, forced: list[int] | None, said: list[int]) -> Any:
    return (row, SamplingParams(extra_args={KEY: forced} if forced else None), None, said)


@pytest.fixture
def processor() -> ForcedOutput:
    return ForcedOutput(None, torch.device("cpu"), False)


def test_tokens_come_in_order_and_others_are_untouched(processor: ForcedOutput) -> None:
    said: list[int] = []
    processor.update_state(update(2, added=[added(0, [5, 9, 7], said), added(1, None, [])]))
    free = torch.zeros(2, VOCABULARY)
    free[1, 3] = 1.0
    for token in (5, 9, 7):
        assert processor.apply(free.clone()).argmax(dim=-1).tolist() == [token, 3]
        said.append(token)
        processor.update_state(None)
    assert said_by(processor, 2)[0] == 0  # nothing is left to force
    assert not processor.is_argmax_invariant()


@given(st.data())
def test_rows_follow_their_requests(data: st.DataObject) -> None:
    """Any sequence of arrivals, ends, moves and swaps leaves every request with its own tokens."""
    processor = ForcedOutput(None, torch.device("cpu"), False)
    batch: dict[int, int | None] = {}  # row -> the token that is forced there
    for _ in range(data.draw(st.integers(1, 12))):
        removed = data.draw(st.lists(st.sampled_from(sorted(batch)), unique=True)) if batch else []
        for row in removed:
            del batch[row]
        arrivals = []
        for row in data.draw(st.lists(st.integers(0, 5), unique=True, max_size=2)):
            batch[row] = data.draw(st.sampled_from([None, *range(1, VOCABULARY)]))
            arrivals.append(added(row, [batch[row]] if batch[row] else None, []))
        moves = []
        if batch and data.draw(st.booleans()):
            source, target = data.draw(st.sampled_from(sorted(batch))), data.draw(st.integers(0, 5))
            swap = target in batch and data.draw(st.booleans())
            if source != target:
                moves.append((source, target, MoveDirectionality.SWAP if swap else MoveDirectionality.UNIDIRECTIONAL))
                moved, replaced = batch.pop(source), batch.pop(target, None)
                batch[target] = moved
                if swap:
                    batch[source] = replaced
        processor.update_state(update(len(batch), removed, arrivals, moves))
        assert said_by(processor, 6) == [batch.get(row) or 0 for row in range(6)]
