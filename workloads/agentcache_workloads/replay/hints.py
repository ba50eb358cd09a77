"""What a replayed request claims about its job, as an agent framework would."""

from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn

ANY_TOOL = "tool"  # where the trace says that a tool was asked for, but not which


def hints_of(job: PlannedJob, turn: PlannedTurn, last: bool) -> dict[str, str | int]:
    """The fields of `SamplingParams.extra_args` for a turn; `last`: nothing of its job is left but this turn.

    A branch's last turn in a job that goes on claims neither an end nor a return: both would be wrong.
    """
    hints: dict[str, str | int] = {"job_id": job.id}
    if last:
        hints["is_last_step"] = 1
    elif turn.followed_by is not None:
        hints["is_last_step"] = 0
        if turn.call.stop == "tool_use":
            hints["this_func_call"] = _tool(turn)
    if turn.follows is not None and job.turns[turn.follows].call.stop == "tool_use":
        hints["last_func_call"] = _tool(job.turns[turn.follows])
    return hints


def _tool(turn: PlannedTurn) -> str:
    return turn.call.tools[0] if turn.call.tools else ANY_TOOL
