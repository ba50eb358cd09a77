"""Time multi-segment attention against its baselines: `python kernels/bench/run.py`; writes results.csv.

Nothing is timed before the gates are green on this machine. Without a GPU every row says "not measured".
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import triton
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, PAGES, SHAPES, Case  # noqa: E402

from agentcache_kernels.batches import Batch, make, unpacked  # noqa: E402
from agentcache_kernels.msa import config_for, msa_attention, plan_for  # noqa: E402
from agentcache_kernels.timing import median, seconds  # noqa: E402

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = [
    *("case", "shape", "block_size", "dtype", "what", "p10_us", "median_us", "p90_us"),
    *("tflops", "of_ceiling", "ratio", "goal", "gpu", "torch", "triton", "commit", "seed"),
]
NOT_MEASURED = "not measured"
Row = dict[str, object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV to write")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    chosen = [case for case in CASES if options.only in case.name]
    if not gate():
        print("the gates are red on this machine: nothing was timed")
        return 1
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", restval=NOT_MEASURED)
        writer.writeheader()
        for row in rows(chosen):
            writer.writerow(row)
            file.flush()
            print(
                *(
                    f"{row[name]}"
                    for name in ("case", "shape", "block_size", "what", "median_us", "ratio")
                    if name in row
                )
            )
    return 0


def gate() -> bool:
    """The tests of the kernels, on the GPU where there is one, under the interpreter elsewhere."""
    env = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    tests = [str(ROOT / "tests/kernels/gates"), str(ROOT / "tests/kernels/test_plan.py")]
    return (
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *tests], env=env, cwd=ROOT, check=False).returncode
        == 0
    )


def rows(chosen: list[Case]) -> Iterator[Row]:
    """Every case at every shape and block size: a row for ours and one for each baseline."""
    here = {"torch": torch.__version__, "triton": triton.__version__, "commit": commit(), "seed": 0, "dtype": "bf16"}
    if not torch.cuda.is_available():
        for case in chosen:
            for shape in SHAPES:
                for page in PAGES:
                    for what in ("ours", *case.against):
                        yield here | {
                            "case": case.name,
                            "shape": shape,
                            "block_size": page,
                            "what": what,
                            "goal": case.ratio,
                        }
        return
    here["gpu"] = torch.cuda.get_device_name()
    flops, bandwidth = ceilings()
    yield here | {"case": "ceiling", "what": "bf16 product", "tflops": round(flops / 1e12, 1)}
    yield here | {"case": "ceiling", "what": "device copy, TB/s", "tflops": round(bandwidth / 1e12, 3)}
    for case in chosen:
        for shape, (heads, kv_heads, d) in SHAPES.items():
            for page in PAGES:
                batch = make(case.rows, heads=heads, kv_heads=kv_heads, d=d, page=page, dtype=torch.bfloat16)
                same = here | {"case": case.name, "shape": shape, "block_size": page, "goal": case.ratio}
                ours = seconds(msa(batch))
                theirs: dict[str, list[float]] = {}
                for what in case.against:
                    if call := BASELINES[what](batch):
                        theirs[what] = seconds(call)
                    elif what == "copy ceiling":
                        theirs[what] = [batch.kv_bytes / bandwidth] * len(ours)
                best = min(map(median, theirs.values()))
                for what, times in {"ours": ours, **theirs}.items():
                    rate = batch.flops / median(times)
                    yield (
                        same
                        | figures(times)
                        | {
                            "what": what,
                            "tflops": round(rate / 1e12, 1),
                            "of_ceiling": round(rate / flops, 3),
                            "ratio": round(best / median(ours), 3) if what == "ours" else "",
                        }
                    )


def figures(times: list[float]) -> Row:
    at = {"p10_us": 0.1, "median_us": 0.5, "p90_us": 0.9}
    return {name: round(times[int(share * len(times))] * 1e6, 1) for name, share in at.items()}


def ceilings() -> tuple[float, float]:
    """Floating-point operations a second of a bf16 product, and bytes a second of reading in a device copy."""
    a = torch.randn((8192, 8192), dtype=torch.bfloat16, device="cuda")
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    product = median(seconds(lambda: a @ a))
    copied = median(seconds(lambda: target.copy_(source)))
    return 2 * 8192**3 / product, 2 * source.numel() / copied


def msa(batch: Batch) -> Callable[[], Tensor]:
    """Our launch, with the plan of the step made beforehand."""
    kv_heads = batch.k_cache.shape[2]
    config = config_for(batch.q, kv_heads, len(batch.q) / len(batch.block_table))
    plan = plan_for(batch.q, kv_heads, batch.positions, batch.cu_seqlens_q, config=config)
    return lambda: msa_attention(**batch.arguments, plan=plan, config=config)


def two_launches(batch: Batch) -> Callable[[], Tensor]:
    """The last request apart from the others."""
    cut = int(batch.cu_seqlens_q[-2])
    first = replace(
        batch, q=batch.q[:cut], positions=batch.positions[:cut], cu_seqlens_q=batch.cu_seqlens_q[:-1],
        block_table=batch.block_table[:-1],
    )  # fmt: skip
    last = replace(
        batch, q=batch.q[cut:], positions=batch.positions[cut:], cu_seqlens_q=batch.cu_seqlens_q[-2:] - cut,
        block_table=batch.block_table[-1:],
    )  # fmt: skip
    calls = msa(first), msa(last)
    return lambda: [call() for call in calls][-1]


def gathered(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [1, heads, tokens, d] of the only request, contiguous."""
    d, last = batch.q.shape[2], int(batch.positions[-1]) + 1
    k, v = (cache[batch.block_table[0].long()].flatten(0, 1)[:last] for cache in (batch.k_cache, batch.v_cache))
    q, k, v = (x.transpose(0, 1).contiguous().view(1, -1, len(x), d) for x in (batch.q, k, v))
    return q, k, v


def sdpa(batch: Batch) -> Callable[[], Tensor]:
    """torch's flash attention on contiguous K/V of a whole prompt; gathering is not timed."""
    q, k, v = gathered(batch)
    return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def gathered_sdpa(batch: Batch) -> Callable[[], Tensor]:
    """torch's attention with a mask, gathering of K/V timed too, as a paged cache needs it."""
    keys = torch.arange(int(batch.positions[-1]) + 1, device="cuda")
    mask = keys[None, :] <= batch.positions[:, None]

    def call() -> Tensor:
        q, k, v = gathered(batch)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    return call


def flex(batch: Batch) -> Callable[[], Tensor]:
    """FlexAttention over gathered K/V, its mask by position, compiled."""
    q, k, v = gathered(batch)
    positions = batch.positions
    mask = create_block_mask(
        lambda b, h, row, key: key <= positions[row], None, None, q.shape[2], k.shape[2], device="cuda"
    )
    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True)


BASELINES: dict[str, Callable[[Batch], Callable[[], Tensor] | None]] = {
    "unpacked": lambda batch: msa(unpacked(batch)),
    "two launches": two_launches,
    "sdpa": sdpa,
    "gathered sdpa": gathered_sdpa,
    "flex": flex,
    "copy ceiling": lambda batch: None,
}


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
