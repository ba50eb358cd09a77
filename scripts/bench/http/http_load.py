"""How much of a time measured over HTTP is the replayer's own: many streams on one core, from a server that knows.

    python scripts/bench/http/http_load.py --out docs/results/http.csv

A stub server in a process of its own (and on a core of its own, where there are two) streams tokens at a fixed pace and
notes on the clock that all processes share when it wrote each of them. The replayer, on one core, drives it with
`--sessions` jobs at once. A token's delay is from the server's write to the moment that the replayer gives it: what
the kernel, the connection and the replayer together add. `others_share` is the part of the replayer's core that other
processes took meanwhile: where it is not small, the delays are theirs. TTFT and times between tokens are printed as
both sides saw them; `late` is by how much the replayer's are longer.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from agentcache.files import write_csv
from agentcache_workloads.readers.trace import Meta, Session, TraceCall
from agentcache_workloads.replay.accounts.metrics import client_object
from agentcache_workloads.replay.accounts.provenance import commit, describe_host
from agentcache_workloads.replay.engines.http.driver import Drive
from agentcache_workloads.replay.jobs.jobs import PlannedJob, build_job
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import RunResult
from agentcache_workloads.replay.spec import Remote, RunSpec

BLOCK, TOKENS, TURNS = 64, 60, 3


# The server


class Stub(asyncio.Protocol):
    """One connection: reads a request, answers with a token each `gap_s`, and notes when it wrote each."""

    def __init__(self, gap_s: float, written: dict[str, list[float]]) -> None:
        self.gap_s = gap_s
        self.written = written
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        path = head.split(b" ", 2)[1]
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return
        self.data = b""
        request = json.loads(body) if body else {}
        if path != b"/v1/completions" or not request.get("stream"):
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return
        self.times = self.written.setdefault(f"{request['session']}/{request['turn']}", [time.perf_counter()])
        self.tokens = list(request["vllm_xargs"]["forced_output"])
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.loop = asyncio.get_running_loop()
        self.next_s = self.loop.time() + self.gap_s
        self.loop.call_at(self.next_s, self.say)

    def say(self) -> None:
        token = self.tokens.pop(0)
        reason = '"length"' if not self.tokens else "null"
        event = b'{"choices":[{"index":0,"text":"x","token_ids":[%d],"finish_reason":%b}]}' % (token, reason.encode())
        self.times.append(time.perf_counter())
        self.write(event)
        if self.tokens:
            self.next_s += self.gap_s
            self.loop.call_at(self.next_s, self.say)
            return
        self.write(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d}}' % (len(self.times) - 1))
        self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def write(self, event: bytes) -> None:
        self.transport.write(b"%x\r\ndata: %b\n\n\r\n" % (len(event) + 8, event))


async def serve(gap_s: float, out: str) -> None:
    """Serve until stdin closes, then write down what was noted."""
    written: dict[str, list[float]] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stub(gap_s, written), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    Path(out).write_text(json.dumps(written))


# The replayer


class Loaded(Drive):
    """The replayer as it is; its requests also say whose turn they are, so that the server's notes can be matched."""

    def _wanted(self, job: PlannedJob, turn: Any, last: bool) -> Any:
        wanted = super()._wanted(job, turn, last)
        wanted.body.update(session=turn.context, turn=turn.call.turn)
        return wanted


def jobs_of(sessions: int, prompt_blocks: int) -> list[PlannedJob]:
    """Jobs of a few turns each, without pauses, that share nothing."""

    def call(turn: int) -> TraceCall:
        blocks = prompt_blocks + turn
        return TraceCall(
            turn=turn, after=turn - 1 if turn else None, delay_s=0.0, delay_kind="tool" if turn else "start",
            in_tok=BLOCK * blocks, out_tok=TOKENS, enc="blocks", items=tuple(range(blocks)), stop="tool_use", tools=(),
            spawn=(), t_s=None, api_s=None, record={},
        )  # fmt: skip

    made = {f"s{n}": Session(f"s{n}", None, None, None, tuple(map(call, range(TURNS))), {}) for n in range(sessions)}
    return [build_job(session, made) for session in made.values()]


def drive(url: str, sessions: int, prompt_tokens: int, ramp_s: float) -> tuple[RunResult, float]:
    """Run all; the result, and where its clock started on the shared one."""
    spec = RunSpec(
        engine="http", policy="stub", slots=sessions, time_scale=0.0, tokens_per_block=BLOCK, model="stub",
        vocab_size=32_000, block_size=BLOCK, cache_blocks=1, max_batched_tokens=1, max_context_tokens=1,
        remote=Remote(url, connections=2 * sessions, ramp_s=ramp_s),
    )  # fmt: skip
    meta = Meta("made", "", 0, 0, BLOCK, "session", False, {})
    jobs = jobs_of(sessions, prompt_tokens // BLOCK)
    assert spec.remote is not None
    this = Loaded(spec, spec.remote, jobs, Renderer(meta, BLOCK, spec.vocab_size, 1), None, lambda calls: None)
    return asyncio.run(this.run()), this.start


def measure(sessions: int, rate: float, prompt_tokens: int, cores: list[int]) -> dict[str, Any]:
    """One row: `sessions` streams at once that bring `rate` events a second together."""
    gap_s = sessions / rate
    result, start, others_share, written = _driven(sessions, gap_s, prompt_tokens, cores)
    assert result.client is not None
    client = client_object(result.client)
    delays, late, theirs, ours, lags = [], [], [], [], []
    for call in result.calls:
        assert call.error is None, call.error
        assert call.first_token_s is not None
        assert call.sent_s is not None
        came, *times = written[call.turn]
        got = [start + at for at in accumulate(call.gaps_s, initial=call.first_token_s)]
        delays += [mine - its for mine, its in zip(got, times, strict=True)]
        theirs += [after - before for before, after in pairwise(times)]
        ours += call.gaps_s
        late.append((call.first_token_s - call.sent_s) - (times[0] - came))
        lags.append(call.sent_s - call.arrived_s)
    # The plateau: all sessions are open, and none has ended.
    begin, end = start + TOKENS * gap_s, start + TURNS * TOKENS * gap_s
    plateau = [at for times in written.values() for at in times[1:] if begin <= at < end]
    return {
        "sessions": sessions,
        "rate": rate,
        "peak_open": client["peak_open"],
        "prompt_tokens": prompt_tokens,
        "calls": len(result.calls),
        "events": client["events"],
        "events_per_s": round(len(plateau) / (end - begin), 1),
        "cpu_share": round(client["cpu_share"], 3),
        "others_share": round(others_share, 3),
        "cpu_us_per_event": round(1e6 * client["cpu_s"] / client["events"], 1),
        "errors": sum(call.error is not None for call in result.calls),
        "retries": client["retries"],
        **_milliseconds("delay", delays),
        **_milliseconds("ttft_late", late),
        **_milliseconds("send_lag", lags),
        **_milliseconds("gap_server", theirs),
        **_milliseconds("gap_client", ours),
    }


def _driven(
    sessions: int, gap_s: float, prompt_tokens: int, cores: list[int]
) -> tuple[RunResult, float, float, dict[str, list[float]]]:
    """A run on a server of its own core: the result, where its clock started, what else had our core, what was written.

    What was written: by turn, when its request came and each token left.
    """
    with tempfile.TemporaryDirectory() as folder:
        noted = Path(folder) / "written.json"
        command = [sys.executable, __file__, "--serve", str(gap_s), str(noted)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            os.sched_setaffinity(server.pid, {cores[-1]})
            os.sched_setaffinity(0, {cores[0]})
            before = core_times(cores[0])
            # Over the time of one answer, so that starts and ends stay evenly spread.
            result, start = drive(f"http://127.0.0.1:{port}", sessions, prompt_tokens, ramp_s=TOKENS * gap_s)
            after = core_times(cores[0])
        finally:
            os.sched_setaffinity(0, cores)
            server.stdin.close()
            server.wait(30)
        written: dict[str, list[float]] = json.loads(noted.read_text())
    assert result.client is not None
    others_share = max((after[0] - before[0] - result.client.cpu_s) / (after[1] - before[1]), 0.0)
    return result, start, others_share, written


def core_times(core: int) -> tuple[float, float]:
    """Seconds that a core has been busy, with whatever, and all that it has had."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    ticks = [int(word) for word in line.split()[1:9]]  # user nice system idle iowait irq softirq steal
    each_s = 1 / os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) * each_s, sum(ticks) * each_s


def _milliseconds(name: str, seconds: list[float]) -> dict[str, float]:
    return {f"{name}_p{p}_ms": round(1e3 * float(np.percentile(seconds, p)), 3) for p in (50, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("GAP", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--sessions", type=int, nargs="+", default=[50, 500, 500])
    parser.add_argument("--rate", type=float, nargs="+", default=[200.0, 2000.0, 3000.0], help="events a second")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of a first prompt")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(float(given.serve[0]), given.serve[1]))
        return
    cores = sorted(os.sched_getaffinity(0))
    host = describe_host()
    where = {"commit": commit(), "cpu_model": host["cpu"], "cores": host["cores"], "seed": 1}
    rows = []
    for sessions, rate in zip(given.sessions, given.rate, strict=True):
        row = measure(sessions, rate, given.prompt, cores)
        print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)
        rows.append(row | where)
    if given.out:
        write_csv(given.out, rows)


if __name__ == "__main__":
    main()
