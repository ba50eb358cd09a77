"""Compile the kernels ahead of time for GPUs that need not be there: `python -m agentcache_kernels.compile`.

Prints and, with `--out`, writes one CSV row a kernel: registers of a thread, bytes of shared memory, bytes spilled.
Exit code 1 where one spills or wants more shared memory than its target has.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
from triton.compiler import ASTSource

from agentcache_kernels.forward import INTERPRETED, attend, join
from agentcache_kernels.tables import FOLDER, Entry, Table

SHARED_BYTES = {80: 166_912, 90: 232_448, 100: 232_448}
"""What a program may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""

ELEMENT = {2: "bf16", 4: "fp32"}
GROUP, HEADS, PAGE = 4, 32, 16  # Llama-3.1-8B; a KV head of it serves four query heads


@dataclass(frozen=True, slots=True)
class Compiled:
    """One compiled kernel. `variant` names what is switched on: split keys, window and soft cap."""

    triton: str
    target: str
    kernel: str
    dtype: str
    d: int
    variant: str
    block_m: int
    block_n: int
    warps: int
    stages: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    seconds: float

    @property
    def fits(self) -> bool:
        return self.spill_bytes == 0 and self.shared_bytes <= SHARED_BYTES[int(self.target.removeprefix("sm_"))]


def compile_attend(entry: Entry, capability: int, *, split: bool = False, window: bool = False) -> Compiled:
    """Compile `attend` for a table's entry."""
    config, element = entry.config, ELEMENT[entry.element_bytes]
    constants: dict[str, object] = {
        "HEADS": HEADS,
        "GROUP": GROUP,
        "GROUP_PAD": GROUP,
        "HAS_CAP": window,
        "HAS_WINDOW": window,
        "HAS_LSE": False,
        "CAN_SPLIT": split,
        "PAGE": PAGE,
        "D": entry.d_pad,
        "D_PAD": entry.d_pad,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "WIDEN": False,
        **dict.fromkeys(("q_d", "out_d", "k_d", "v_d"), 1),  # as the launcher specialises them
    }
    types = {"scale": "fp32", "soft_cap": "fp32", "positions_ptr": "*i64", "table_ptr": "*i32", "plan_ptr": "*i32"}
    types |= dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr", "lse_ptr"), f"*{element}")
    types |= dict.fromkeys(("part_out_ptr", "part_lse_ptr"), "*fp32")
    variant = "+".join(name for name, on in (("split", split), ("window+cap", window)) if on) or "plain"
    return _compile(attend, types, constants, capability, config.warps, config.stages, element, variant)


def compile_join(entry: Entry, capability: int) -> Compiled:
    """Compile `join` for the head size of a table's entry."""
    constants: dict[str, object] = {
        "HEADS": HEADS,
        "GROUP": GROUP,
        "GROUP_PAD": GROUP,
        "HAS_LSE": False,
        "D": entry.d_pad,
        "D_PAD": entry.d_pad,
        "ROWS": 16,
        "out_d": 1,
    }
    element = ELEMENT[entry.element_bytes]
    types = {"out_ptr": f"*{element}", "lse_ptr": f"*{element}", "plan_ptr": "*i32"}
    types |= dict.fromkeys(("part_out_ptr", "part_lse_ptr"), "*fp32")
    return _compile(join, types, constants, capability, 4, 3, element, "plain")


def _compile(
    kernel: triton.JITFunction,
    types: dict[str, str],
    constants: dict[str, object],
    capability: int,
    warps: int,
    stages: int,
    element: str,
    variant: str,
) -> Compiled:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    # Pointers and strides of real tensors are multiples of 16 in size; counts and the window are anything.
    free = {"tiles", "all_tokens", "window", "table_row"}
    attrs = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if signature[name] not in ("constexpr", "fp32") and name not in free
    }
    begun = time.perf_counter()
    built = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attrs),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    seconds = time.perf_counter() - begun
    registers, spills = _ptxas_figures(built.asm["ptx"], capability)
    return Compiled(
        triton.__version__,
        f"sm_{capability}",
        kernel.__name__,
        element,
        int(str(constants["D"])),
        variant,
        int(str(constants.get("BLOCK_M", constants.get("ROWS")))),
        int(str(constants.get("BLOCK_N", 0))),
        warps,
        stages,
        registers,
        built.metadata.shared,
        spills,
        round(seconds, 2),
    )


def _ptxas_figures(ptx: str, capability: int) -> tuple[int, int]:
    """Registers a thread and bytes spilled, in ptxas's own words."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={sm_arch_from_capability(capability)}", str(source)]
        done = subprocess.run([*command, "-o", os.devnull], capture_output=True, text=True, check=True)
    words = done.stderr + done.stdout
    registers, *_ = re.findall(r"Used (\d+) registers", words)
    return int(registers), sum(int(count) for count in re.findall(r"(\d+) bytes spill (?:stores|loads)", words))


def gate(table: Table, capabilities: list[int], quick: bool) -> Iterator[Compiled]:
    """What must compile: every entry of the table; `quick`: those of bf16 and d 128 only."""
    for capability in capabilities:
        joined = set()
        for entry in table.entries:
            if quick and (entry.element_bytes, entry.d_pad) != (2, 128):
                continue
            yield compile_attend(entry, capability, split=entry.rows <= 64)
            if not quick:
                yield compile_attend(entry, capability, split=True, window=True)
            if (entry.element_bytes, entry.d_pad) not in joined:
                joined.add((entry.element_bytes, entry.d_pad))
                yield compile_join(entry, capability)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=FOLDER / "default.json", help="the tile shapes to compile")
    parser.add_argument("--targets", type=int, nargs="+", choices=SHARED_BYTES, default=list(SHARED_BYTES))
    parser.add_argument("--quick", action="store_true", help="bf16 with head size 128 only")
    parser.add_argument("--out", type=Path, help="write the figures here, as CSV")
    options = parser.parse_args()
    if INTERPRETED:
        parser.error("TRITON_INTERPRET is set, so there is nothing to compile; unset it")
    rows = []
    for row in gate(Table(options.table), options.targets, options.quick):
        rows.append(row)
        print(
            f"{row.target:7}{row.kernel:7}{row.dtype:5} d {row.d:<4}{row.variant:17}{row.block_m:4} x {row.block_n:<4}"
            f"{row.registers:4} registers {row.shared_bytes:7,} B shared {row.spill_bytes:6,} B spilled"
            + ("" if row.fits else "   DOES NOT FIT"),
            flush=True,
        )
    if options.out:
        with options.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    bad = sum(not row.fits for row in rows)
    print(f"triton {triton.__version__}: {len(rows)} kernels, {bad} spill or do not fit")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
