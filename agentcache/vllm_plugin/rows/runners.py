"""Model runners that follow the plan: rows with holes, and jumps over resident blocks. Mixed into stock runners."""

from typing import Any

import numpy as np
import torch

from agentcache.vllm_plugin.blocks.holes import SEGMENTS, Run
from agentcache.vllm_plugin.overrides import Joined, own


class SegmentedRunner(Joined):
    """What vLLM's first model runner lacks: rows whose positions are not consecutive."""

    _segments: dict[str, list[Run]] = {}  # noqa: RUF012  (replaced, never mutated)

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self._segments = getattr(scheduler_output, SEGMENTS, None) or {}
        return super().execute_model(scheduler_output, *args, **kwargs)

    def _get_cumsum_and_arange(self, num_tokens: np.ndarray, arange_out: np.ndarray, *args: Any, **kw: Any) -> Any:
        """Positions, token ids and cache slots all follow from these offsets to a row's first position."""
        cumsum = super()._get_cumsum_and_arange(num_tokens, arange_out, *args, **kw)
        if arange_out is self.query_pos.np:
            for row, segments in self._segmented_rows():
                offsets = np.concatenate([np.arange(start, end) for start, end in segments]) - segments[0][0]
                arange_out[cumsum[row] - num_tokens[row] : cumsum[row]] = offsets
        return cumsum

    def _prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_inputs(*args, **kwargs)
        if self._segments:
            for row, segments in self._segmented_rows():
                length = segments[-1][1]
                self.seq_lens[row] = length
                self.optimistic_seq_lens_cpu[row] = length
                # A row samples only when its last segment reaches the end of what is known of the request.
                known = self.requests[self.input_batch.req_ids[row]].num_tokens
                self.discard_request_mask.np[row] = length < known
            self.discard_request_mask.copy_to_gpu(self.input_batch.num_reqs)
        return prepared

    @own
    def _segmented_rows(self) -> list[tuple[int, list[Run]]]:
        if not self._segments:
            return []
        ids = self.input_batch.req_ids
        return [(row, self._segments[name]) for row, name in enumerate(ids) if name in self._segments]


class SegmentedRunnerV2(Joined):
    """What vLLM's second model runner lacks: it counts computed tokens on the device and expects rows without gaps."""

    _segments: dict[str, list[Run]] = {}  # noqa: RUF012  (replaced, never mutated)
    _expected: dict[str, int] = {}  # noqa: RUF012  (replaced, never mutated)

    def update_requests(self, scheduler_output: Any) -> None:
        """Correct the device's count wherever the scheduler has jumped over resident blocks since the last step."""
        super().update_requests(scheduler_output)
        segments = getattr(scheduler_output, SEGMENTS, None)
        if segments is None:  # stock scheduling, which never jumps and may count ahead of the device
            return
        self._segments = segments
        states = self.req_states
        cached = scheduler_output.scheduled_cached_reqs
        for name, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            if computed != self._expected.get(name):
                states.num_computed_tokens.stage_write_elem(states.req_id_to_index[name], computed)
        states.num_computed_tokens.apply_write()
        started = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        started |= {new.req_id: new.num_computed_tokens for new in scheduler_output.scheduled_new_reqs}
        self._expected = {name: started[name] + n for name, n in scheduler_output.num_scheduled_tokens.items()}

    def prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        batch = super().prepare_inputs(*args, **kwargs)
        for row, name in enumerate(batch.req_ids):
            if segments := self._segments.get(name):
                begin, end = batch.query_start_loc_np[row : row + 2]
                positions = torch.cat([torch.arange(a, b) for a, b in segments]).to(batch.positions.device)
                tokens = self.req_states.all_token_ids.gpu[int(batch.idx_mapping_np[row]), positions]
                batch.positions[begin:end] = positions
                batch.input_ids[begin:end] = tokens.to(batch.input_ids.dtype)
                batch.seq_lens[row] = segments[-1][1]
                batch.seq_lens_cpu_upper_bound[row] = segments[-1][1]
        return batch
