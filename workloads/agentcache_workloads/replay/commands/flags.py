"""Flags that several commands share: which jobs run, and how."""

from typing import Annotated

import typer

Sessions = Annotated[int | None, typer.Option(min=1, help="Jobs to take, by SHA-256 order; default all.")]
MaxCalls = Annotated[int | None, typer.Option(min=1, help="First calls of each job; default all.")]
MaxCtx = Annotated[int | None, typer.Option(min=1, help="Prompt tokens of the trace above which a job is cut.")]
Slots = Annotated[int, typer.Option(min=1, help="Jobs open at once.")]
TokensPerBlock = Annotated[
    int | None, typer.Option(min=1, help="Engine tokens a block of the trace; default the trace's own.")
]
TimeScale = Annotated[float, typer.Option(min=0.0, help="Factor on recorded pauses.")]
Seeds = Annotated[str, typer.Option(help="Seeds of tokens and of the jobs' order, with commas.")]
Hints = Annotated[bool, typer.Option(help="Send job ids, ends and tools with each request.")]
Dtype = Annotated[str, typer.Option(help="Of weights and cache: float32, bfloat16, float16.")]
MaxBatchedTokens = Annotated[int, typer.Option(min=1, help="Tokens a step computes at most.")]
