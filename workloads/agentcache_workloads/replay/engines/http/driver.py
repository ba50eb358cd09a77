"""One run on a server: the loop of its jobs, and a task of asyncio for each call that is open."""

import asyncio
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress

import httpx

from agentcache.errors import EngineError
from agentcache_workloads.replay.engines.http.call import Wanted, make
from agentcache_workloads.replay.engines.http.dialects import Claims, say
from agentcache_workloads.replay.engines.http.lanes import Lanes
from agentcache_workloads.replay.engines.http.server import Scrape, grown, parse_metrics
from agentcache_workloads.replay.hints import hints_of
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop, TurnEnd, rounds, settle
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn
from agentcache_workloads.replay.jobs.render import FIRST_TOKEN, Renderer
from agentcache_workloads.replay.result import CallRecord, Client, RunResult
from agentcache_workloads.replay.spec import KEY, Remote, RunSpec

HEARTBEAT_S = 0.02
SIGNALS = (signal.SIGINT, signal.SIGTERM)
GAVE_UP = 5
"""After so many failed calls and none that succeeded, a run is given up: nobody serves there."""


class Drive:
    """One run: the loop, the calls that are open, and what has been seen of them. Times are since its start."""

    def __init__(
        self,
        spec: RunSpec,
        remote: Remote,
        jobs: Sequence[PlannedJob],
        renderer: Renderer,
        arrivals: Sequence[float] | None,
        advance: Callable[[int], None],
    ) -> None:
        self.spec = spec
        self.remote = remote
        self.jobs = jobs
        self.renderer = renderer
        self.arrivals = arrivals
        self.advance = advance
        self.calls: list[CallRecord] = []
        self.open: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self.ended = self.failed = 0
        self.client = Client(remote.connections)
        self.start = 0.0
        self.interrupted = False
        self.hopeless = False
        self.broken: BaseException | None = None

    @property
    def now(self) -> float:
        return time.perf_counter() - self.start

    async def run(self) -> RunResult:
        self.lanes = Lanes(self.remote.url, self.remote.connections, self.remote.timeout_s)
        async with aclosing(self.lanes):
            await self._warm_up()
            before = await self._scrape()
            cpu_s = _cpu_s()
            self.start = time.perf_counter()
            self.changed = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in SIGNALS:
                with suppress(ValueError, RuntimeError):  # not in the main thread: somebody else hears signals
                    loop.add_signal_handler(number, self._interrupt)
            heart = asyncio.create_task(self._heartbeat())
            try:
                await self._drive()
            finally:
                heart.cancel()
                await asyncio.gather(heart, *self._cancelled(list(self.open)), return_exceptions=True)
            self.client.wall_s = self.now
            self.client.cpu_s = _cpu_s() - cpu_s
            counted = grown(before, await self._scrape())
        ended = self.loop.ended.values()
        if self.hopeless:
            raise EngineError(
                f"{self.failed} calls to {self.remote.url} failed and no job came to its end; the last: "
                f"{next(call.error for call in reversed(self.calls) if call.error)}"
            )
        return RunResult(
            calls=self.calls,
            jobs=self.loop.records(),
            evictions=counted.evictions,
            makespan_s=max((p.ended_s for p in ended), default=0.0),
            classes={},
            idle_token_s=counted.idle_token_s,
            holes_mean=counted.holes_mean,
            cached_tokens=counted.cached_tokens,
            cached_after_hole=counted.cached_after_hole,
            preemptions=counted.preemptions,
            interrupted=self.interrupted,
            client=self.client,
        )

    async def _drive(self) -> None:
        spec = self.spec
        self.loop = ClosedLoop(self.jobs, spec.slots, spec.time_scale, 0.0, self.arrivals, self.remote.ramp_s)
        for until_s in rounds(self.loop, self):
            self.changed.clear()
            self.client.peak_open = max(self.client.peak_open, len(self.open))
            with suppress(TimeoutError):
                wait_s = None if until_s is None else max(until_s - self.now, 0.0)
                await asyncio.wait_for(self.changed.wait(), wait_s)
            if self.broken:
                raise self.broken
            if self.interrupted or self.hopeless:
                break

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        task = asyncio.create_task(self._call(due_s, number, turn, last))
        task.add_done_callback(self._over)
        self.open[turn.id] = number, task

    async def _call(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        wanted = self._wanted(self.jobs[number], turn, last)
        prompt = wanted.body["prompt"]
        record = CallRecord(turn.id, turn.kind, due_s, len(prompt), wanted.tokens)
        self.calls.append(record)
        try:
            await make(wanted, self.lanes, record, self.client, self.remote.retries, lambda: self.now)
        except asyncio.CancelledError:
            record.error = record.finished_s = None  # it neither came to its end nor failed
            raise
        self._finish(number, turn, record)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.broken = error
            self.changed.set()

    def _finish(self, number: int, turn: PlannedTurn, record: CallRecord) -> None:
        del self.open[turn.id]
        self.ended += 1
        if failed := record.error is not None:
            self.failed += 1
            self._cancelled([name for name, (owner, _) in self.open.items() if owner == number])
        now = self.now if record.finished_s is None or failed else record.finished_s
        if settle(self.loop, TurnEnd(number, turn, now, failed)):
            self.renderer.forget(self.jobs[number])
        self.hopeless = self.failed >= GAVE_UP and self.failed == len(self.calls) - len(self.open)
        self.advance(self.ended)
        self.changed.set()

    def _cancelled(self, names: Sequence[str]) -> list[asyncio.Task[None]]:
        tasks = [self.open.pop(name)[1] for name in names]
        for task in tasks:
            task.cancel()
        return tasks

    def _wanted(self, job: PlannedJob, turn: PlannedTurn, last: bool) -> Wanted:
        prompt, output = self.renderer.render(job, turn)
        forced = self.remote.output == "forced"
        claims = self._claims(job, turn, last)
        xargs = {**claims.xargs, KEY: output} if forced else claims.xargs
        body = {
            "model": self.spec.model,
            "prompt": prompt,
            "temperature": 0.0,
            "max_tokens": len(output),
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **claims.body,
            **({"vllm_xargs": xargs} if xargs else {}),
        }
        if forced:
            body["return_token_ids"] = True
            # An answer to the user ends by a stop token, so that the engine sees the recorded reason without any hint;
            # where the token occurs earlier too, it would end too early.
            if turn.call.stop == "end_turn" and output[-1] not in output[:-1]:
                body["stop_token_ids"] = output[-1:]
        else:
            body["min_tokens"] = len(output)
        headers = {"content-type": "application/json", **claims.headers}
        return Wanted(body, headers, len(output), output if forced else None)

    def _claims(self, job: PlannedJob, turn: PlannedTurn, last: bool) -> Claims:
        if not self.spec.hints:
            return Claims()
        return say(self.remote.dialect, hints_of(job, turn, last), turn.context)

    async def _warm_up(self) -> None:
        """A short request, then an empty cache where the server lets us: the first call is slower than all others."""
        body = {"model": self.spec.model, "prompt": [FIRST_TOKEN] * 16, "max_tokens": 2, "temperature": 0.0}
        with suppress(httpx.HTTPError):
            async with self.lanes.lane() as http:
                await http.post("/v1/completions", json=body)
                self.client.cache_reset = (await http.post("/reset_prefix_cache")).is_success

    async def _scrape(self) -> Scrape:
        try:
            async with self.lanes.lane() as http:
                answer = await http.get("/metrics")
        except httpx.HTTPError:
            return Scrape()
        return parse_metrics(answer.text if answer.is_success else "")

    async def _heartbeat(self) -> None:
        """How late a timer comes: what this process itself adds to what it measures, at most."""
        while True:
            due = time.perf_counter() + HEARTBEAT_S
            await asyncio.sleep(HEARTBEAT_S)
            self.client.loop_lag_s.append(max(time.perf_counter() - due, 0.0))

    def _interrupt(self) -> None:
        self.interrupted = True
        self.changed.set()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
