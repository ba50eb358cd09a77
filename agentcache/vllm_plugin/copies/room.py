"""How many blocks host memory holds, as scheduler and worker work it out alike, each from its own configuration."""

from math import ceil
from typing import Any

from agentcache.errors import ConfigError
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.config import load_options

GIB = 2**30


def places_of(config: Any, kv_cache_config: Any) -> int:
    """The places of an engine's host memory; 0 where it has none.

    Raises `ConfigError` for less than one context of the longest kind takes.
    """
    wanted = load_options(config.additional_config).host_memory
    if wanted is None or why_not(config, kv_cache_config):
        return 0
    places, size = int(wanted * GIB / block_bytes(kv_cache_config)), config.cache_config.block_size
    need = ceil(config.model_config.max_model_len / size)
    if places < need:
        raise ConfigError(
            f"host_memory of {wanted:g} GiB holds {places * size} tokens of this model, expected at least one context "
            f"of {config.model_config.max_model_len}; not started",
            hint=f"give {need * block_bytes(kv_cache_config) / GIB:.3g} or more, or lower --max-model-len",
        )
    return places


def why_not(config: Any, kv_cache_config: Any) -> str | None:
    """Why an engine cannot have host memory below its pool; None where it can."""
    groups, ranks = kv_cache_config.kv_cache_groups, config.parallel_config.world_size
    if len(groups) != 1:
        return f"the model has {len(groups)} KV groups, whose blocks are not told apart below"
    kind, size = compat.get_kv_cache_spec_kind(groups[0].kv_cache_spec), config.cache_config.block_size
    if kind not in (compat.KVCacheSpecKind.FULL_ATTENTION, compat.KVCacheSpecKind.MLA_ATTENTION):
        return f"the model's KV layout is {kind.value}, of which a block alone is of no use"
    if groups[0].kv_cache_spec.block_size != size or kv_cache_config.hash_block_size not in (None, size):
        return "a hash of its keys does not stand for a block"
    if ranks != 1:
        return f"{ranks} workers share each block, and one alone reports its copies"
    return None


def block_bytes(kv_cache_config: Any) -> int:
    """Bytes of a block, of all layers; at most: a layer that is packed with others counts as all of them."""
    tensors = [tensor for tensor in kv_cache_config.kv_cache_tensors if not tensor.host_resident]
    if not tensors:  # of a scheduler without an engine
        group = kv_cache_config.kv_cache_groups[0]
        return len(group.layer_names) * int(group.kv_cache_spec.page_size_bytes)
    return sum(
        len(tensor.layers)
        * (min(tensor.layer_stride, tensor.block_stride) if tensor.layers[1:] else tensor.block_stride)
        for tensor in tensors
    )


def beside_connector(wanted_gib: float, connector: str) -> ConfigError:
    """The error for host memory where a KV connector is on too."""
    return ConfigError(
        f"host_memory is {wanted_gib:g} GiB, and {connector} keeps blocks below the pool itself; not started",
        hint="give one of the two",
    )


def check_free(wanted_gib: float) -> None:
    """Raise `ConfigError` where this machine has not so much memory to give."""
    free = compat.free_memory_bytes()
    if wanted_gib * GIB > free:
        raise ConfigError(
            f"host_memory is {wanted_gib:g} GiB, and {free / GIB:.1f} GiB of memory are free here; not started",
            hint=f"give less than {free / GIB:.1f}, or free some",
        )
