"""What a worker must run at `holes`: rows of several segments, or one hole a step, in its attention backend."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentcache.errors import Unsupported
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.compat import AttentionBackendEnum
from agentcache.vllm_plugin.config import load_options
from agentcache.vllm_plugin.levels.findings import runs_our_worker, when, writes_inside
from agentcache.vllm_plugin.levels.rule import Level, Setup
from agentcache.vllm_plugin.levels.verdict import choose, verdict


def _fused_worker(config: Any) -> str | None:
    worker, attention = str(config.parallel_config.worker_cls), config.attention_config
    if worker.startswith("agentcache.vllm_plugin.cpu_worker."):
        return None
    if not runs_our_worker(config):
        return f"worker class {worker} does not run rows with holes"
    if attention.backend is not AttentionBackendEnum.CUSTOM or attention.backend_per_kind:
        return "only attention backend CUSTOM runs rows with holes on a GPU"
    return None


def _more_positions(config: Any) -> str | None:
    return when(
        config.model_config.uses_mrope,
        "the model's tokens have several positions each (M-RoPE), which vLLM numbers by rows without holes",
    )


FUSED_RULES: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
    ("worker", _fused_worker),
    ("several positions a token", _more_positions),
    ("MLA", lambda c: when(c.model_config.use_mla, "kernels for MLA run rows without holes")),
    ("drafts", lambda c: when(c.speculative_config is not None, "drafts are verified in rows without holes")),
    (
        "KV-sharing fast prefill",
        lambda c: when(
            c.cache_config.kv_sharing_fast_prefill, "KV-sharing fast prefill builds its own rows, which have no holes"
        ),
    ),
    (
        "micro-batches",
        lambda c: when(c.parallel_config.use_ubatching, "micro-batches (DBO) cut rows where they have no holes"),
    ),
)
"""Why fused steps cannot run, so that sequential ones do, one hole a step: name, and why if it applies."""


def why_not_fused(config: Any) -> str | None:
    """Why this configuration runs in sequential mode; None where fused steps run."""
    return next((why for _, rule in FUSED_RULES if (why := rule(config))), None)


def check_backends(config: Any, kv_cache_config: Any, backends: Sequence[type]) -> None:
    """A worker's last word: raise `Unsupported` where it cannot run the rows to come.

    That is for a backend, picked by vLLM, and for a layer that the scheduler has not seen: of each KV group vLLM tells
    it of one alone.
    """
    options, size = load_options(config.additional_config), config.cache_config.block_size
    if not str(config.scheduler_config.scheduler_cls).startswith("agentcache."):
        return
    groups = kv_cache_config.kv_cache_groups
    scheduled = verdict(Setup(config, [_one_layer(group) for group in groups], size))
    if scheduled.level < Level.HOLES or choose(scheduled, options) is not Level.HOLES:
        return  # stock rows will come, or none: the scheduler says so
    found = verdict(Setup(config, groups, size))
    if found.level < Level.HOLES:
        raise Unsupported(f"{found.why}; the engine cannot start", hint="set level to order")
    fused = options.mode == "fused" and not why_not_fused(config)
    for backend in backends:
        inside = writes_inside(backend)
        if inside or (fused and not backend.__module__.startswith("agentcache.")):
            raise Unsupported(
                f"vLLM has picked attention backend {backend.__qualname__}, which "
                + ("writes K/V inside attention" if inside else "does not run rows with holes")
                + "; the engine cannot start",
                hint="name another by --attention-backend" + ("" if inside else ", or set mode to sequential"),
            )


def _one_layer(group: Any) -> Any:
    first = next(iter(compat.iter_layer_specs(group.kv_cache_spec)))
    return replace(group, kv_cache_spec=first)
