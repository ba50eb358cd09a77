"""These run where kernels run: on a GPU, or under `TRITON_INTERPRET=1`, which Triton wants before its first import."""

import os

import torch

if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
