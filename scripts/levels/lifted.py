"""What keeps a CPU from building a model and has nothing to do with its KV groups, lifted in this process.

No step is computed here, so that kernels which are missing are not missed. The product lifts nothing.
"""

import importlib.machinery
import os
import sys
from typing import Any
from unittest.mock import MagicMock

ABSENT = ("torchvision",)
"""Packages that a module of a model imports for images, while its text model needs them not."""


class _StandIns:
    """Finds packages that are absent, and makes them of nothing."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        absent = name.partition(".")[0] in ABSENT
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if absent else None

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        module.__getattr__ = lambda name: MagicMock(name=name)


def lift() -> None:
    """To be called once vLLM's environment is prepared, and before a model is configured."""
    os.environ["VLLM_KIMI_K3_GEMM_AR"] = "0"  # a kernel of CUTLASS, which stands apart from the layers
    sys.meta_path.append(_StandIns())
    _sparse_attention()
    _streams()
    _workspace()
    _inspected_here()


def _sparse_attention() -> None:
    """The CPU has no backend for it; which one it is, KV groups do not depend on."""
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    stock = CpuPlatform.get_attn_backend_cls.__func__

    def chosen(cls: Any, selected_backend: Any, attn_selector_config: Any, **more: Any) -> str:
        if attn_selector_config.use_sparse:
            return AttentionBackendEnum.FLASHMLA_SPARSE.get_path()
        return stock(cls, selected_backend, attn_selector_config, **more)

    CpuPlatform.get_attn_backend_cls = classmethod(chosen)


def _streams() -> None:
    """Layers that overlap kernels make their streams and events when they are built."""
    import torch

    torch.cuda.Stream = torch.cuda.Event = MagicMock


def _workspace() -> None:
    """Sparse layers ask a worker for room, and none is here."""
    import torch
    from vllm.v1.worker.workspace import init_workspace_manager

    torch.accelerator.empty_cache = lambda: None
    init_workspace_manager(torch.device("meta"))


def _inspected_here() -> None:
    """vLLM looks at a model's class in a process of its own, which would have no stand-ins."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda function: function()
