"""What a trace holds, in one pass: sessions, calls, tokens, pauses, reuse, and what a replay would miss."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from agentcache_workloads.readers.trace import Meta, Session, TraceCall

SHOWN = (50, 90, 99)


def describe(meta: Meta, sessions: Iterable[Session]) -> dict[str, Any]:
    """Counts and spreads of a trace; reading all of it is also its check.

    `infinite_hit_percent`: of all prompt tokens, those in blocks that an earlier call of the file had, in the file's
    order: what a cache without end could save. None where there are no block ids.
    """
    prompts, outputs = array("q"), array("q")
    pauses: dict[str, array[float]] = {}
    counts: Counter[str] = Counter()
    tools: Counter[str] = Counter()
    stops: Counter[str] = Counter()
    reuse = _Reuse(meta)
    for session in sessions:
        counts["sub_agents" if session.parent else "sessions"] += 1
        counts["arrivals"] += session.arrival_s is not None
        for call in session.calls:
            prompts.append(call.in_tok)
            outputs.append(call.out_tok)
            stops[call.stop] += 1
            tools.update(call.tools)
            counts["spawned"] += len(call.spawn)
            counts["branches"] += call.after is not None and call.after != call.turn - 1
            counts["tokens_estimated"] += bool(call.record.get("tok_est"))
            counts[f"enc_{call.enc}"] += 1
            if call.after is not None and call.delay_s is None:
                counts["pauses_unknown"] += 1
            elif call.after is not None and call.delay_s is not None:
                pauses.setdefault(call.delay_kind, array("d")).append(call.delay_s)
            reuse.add(session, call)
    total = sum(prompts)
    return {
        "name": meta.name,
        "source": meta.record.get("source"),
        "sessions": counts["sessions"],
        "sub_agents": counts["sub_agents"],
        "calls": len(prompts),
        "prompts": sorted(name.removeprefix("enc_") for name in counts if name.startswith("enc_")),
        "block_size": meta.block_size,
        "blocks": len(reuse.seen) if meta.block_size else None,
        "arrivals_known": counts["arrivals"],
        "prompt_tokens": {"total": total, **spread(prompts)},
        "output_tokens": {"total": sum(outputs), **spread(outputs)},
        "tokens_estimated": counts["tokens_estimated"],
        "pauses_s": {kind: {"calls": len(values), **spread(values)} for kind, values in sorted(pauses.items())},
        "pauses_unknown": counts["pauses_unknown"],
        "stops": dict(stops.most_common()),
        "tools": dict(tools.most_common(10)),
        "branches": counts["branches"],
        "spawned": counts["spawned"],
        "infinite_hit_percent": round(100 * reuse.tokens / total, 2) if total and meta.block_size else None,
    }


class _Reuse:
    """The blocks of a trace so far, and the prompt tokens that were in one when their call came."""

    def __init__(self, meta: Meta) -> None:
        self.seen: set[Any] = set()
        self.tokens = 0
        self._meta = meta

    def add(self, session: Session, call: TraceCall) -> None:
        size = self._meta.block_size
        if call.enc == "blocks" and size:
            whole = (call.items or ())[: call.in_tok // size]
            keys = [(session.sid, block) for block in whole] if self._meta.hash_scope == "session" else whole
            self.tokens += sum(key in self.seen for key in keys) * size
            self.seen.update(keys)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, percentiles by nearest rank, and maximum."""
    if not values:
        return {}
    ordered = sorted(values)
    found = {f"p{p}": ordered[min(len(ordered) * p // 100, len(ordered) - 1)] for p in SHOWN}
    return {
        "mean": round(fmean(ordered), 3),
        **{k: round(v, 3) for k, v in found.items()},
        "max": round(ordered[-1], 3),
    }


def gaps(found: dict[str, Any]) -> list[str]:
    """What a reader should know before replaying it."""
    notes = []
    if found["pauses_unknown"]:
        notes.append(
            f"{found['pauses_unknown']} pauses are unknown: fill them in with --pauses, as in cycle:5 or lognormal:0,1"
        )
    if found["block_size"] is None:
        notes.append("no block ids: a replay estimates them (lengths: as kept; text: four characters a token)")
    if found["tokens_estimated"]:
        notes.append(f"{found['tokens_estimated']} calls have estimated token counts")
    if not found["arrivals_known"]:
        notes.append("no arrival times: replay in a closed loop, or with poisson:JPS")
    return notes
