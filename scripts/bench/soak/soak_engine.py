"""One engine's books without an engine: the plug-in's own objects over vLLM's block pool, and agents that are drawn.

What stands in for the scheduler is the least that keeps the order of calls: arrivals, admission, a step's prefills and
decodes, outputs, and ends before the blocks come back. A turn takes a few steps, or one; its client may leave while it
waits or runs; it is preempted, sent twice, or the last that anybody hears of its job.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from agentcache.cost import CostModel, CostProfile
from agentcache.model import TurnScheduled
from agentcache.policy import make_online_policy
from agentcache.policy.admission.names import parse_admission
from agentcache.policy.chunking import parse_chunking
from agentcache.residency import Residency
from agentcache.vllm_plugin import compat
from agentcache.vllm_plugin.blocks.block_pool import HoleFillingBlockPool
from agentcache.vllm_plugin.compat import Request, RequestStatus
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.link.courier import Carrier
from agentcache.vllm_plugin.link.leases import ServiceLeases
from agentcache.vllm_plugin.link.link import Link
from agentcache.vllm_plugin.steps.gauges import gauge
from agentcache.vllm_plugin.steps.pacing import Pacer

BLOCK_SIZE = 16
POOL, CONTEXTS, JOBS, RUNNING, WAITING = 160, 128, 16, 8, 12
SALT = "tenant"
CHAIN = 10
"""Blocks of a context at most."""

OPEN = RUNNING + WAITING // 2
OWNERS = CONTEXTS + POOL
KEYS = 16 * POOL + OPEN * CHAIN
CLASSES = 1 + 5 + 5 * 33 + 5 * 33 * 4
BUCKETS = 60


def _bounds(*stated: tuple[int, str, str]) -> dict[str, tuple[int, str]]:
    return {name: (bound, why) for bound, why, names in stated for name in names.split()}


BOUNDS = _bounds(
    (
        OPEN,
        "open turns",
        "Residency._turns Context.turns Receipts.open Receipts._known Guard._open Guard._held Link._turns "
        "LiveJob.turns Pacer._first_token_s Pacer._asked Pacer._asked[][] LiveJobs.turns Receipt.missed "
        "ResidentShares._prompts ResidentShares._resident",
    ),
    (OPEN * CHAIN, "blocks of waiting prompts", "ResidentShares._waiting ResidentShares._waiting[]"),
    (POOL + OPEN * CHAIN, "resident blocks", "ResidentShares._copies"),
    (4, "steps in flight", "Pacer._pending"),
    (2 * 64, "steps until there is a profile", "Pacer._learning[]"),
    (CONTEXTS, "contexts remembered", "ContextBook._contexts ContextBook._jobs ContextBook._jobs[]"),
    (KEYS, "keys remembered, and those of open turns", "ContextBook._owners"),
    (POOL, "a remnant holds a block", "ContextBook._remnants Residency._draining"),
    (
        POOL,
        "blocks of the pool",
        "Residency._evictable Residency._twins ServiceLeases._kept LruHoles._order LruHoles._keys AsymCache._entries "
        "AsymCache._fast AsymCache._slow AsymCache._ghosts Ttl._kept Continuum._kept Lease.blocks",
    ),
    (
        OWNERS,
        "paused contexts",
        "Pauses._left PayingTtl._left Ttl._leases Continuum._leases Programs._programs _Program.contexts",
    ),
    (65, "tools that are told apart", "PayingTtl._pauses"),
    (65 * 256, "pauses of each tool", "PayingTtl._pauses[]"),
    (1025, "tools that are told apart", "Durations.of"),
    (1025 * 4096, "pauses of each tool", "Durations.of[]"),
    (4096, "the last of them", "PayingTtl._waits Durations.all PaperV6.waits PaperV6.programs"),
    (
        POOL + 1,
        "physical blocks",
        "ResidencyFreeQueue._blocks ResidencyFreeQueue._faces ResidencyFreeQueue._named ResidencyFreeQueue._keyless "
        "ReturnIndex._group_of",
    ),
    (2 * (CONTEXTS + OPEN), "a sweep at twice the jobs that are known", "LiveJobs._places"),
    (
        CONTEXTS + OPEN,
        "jobs with a turn, or a context",
        "LiveJobs.by_name WorkingSetAdmission._in WorkingSetAdmission._held LiveJobs._later LiveJobs._outdated "
        "LiveJobs.overdue LiveJobs.excused LiveJob.resting Choice.members Choice.held InForce.held InForce.exceptions "
        "Prefix._jobs Prefix._inside Prefix._beyond Prefix.moved Prefix.extra Footprints._jobs Deadlines._due "
        "CountedChains._roots _CountedRun.after",
    ),
    (
        OWNERS,
        "contexts remembered, and a remnant for each block",
        "Survival._pausing ReturnIndex._owners",
    ),
    (2 * OWNERS, "nodes of the owners' trees", "Owners.after Owners.seated Tally._of Tally._sums"),
    (2 * OWNERS * 8, "standings of each node", "Owners.standings"),
    (KEYS, "keys remembered, and those of open turns", "OwnersTree.at"),
    (4 * (CONTEXTS + OPEN) + 64, "deadlines that were put off", "Deadlines._heap"),
    (OWNERS + POOL, "whose rates are of the curves before", "ReturnIndex._old"),
    (CONTEXTS + OPEN, "jobs with a turn since the last choice", "WorkingSetAdmission._changed_jobs"),
    (POOL, "groups of blocks", "ReturnIndex._groups _Group.blocks"),
    (POOL * OWNERS, "owners of each", "_Group.owners _Owner.groups Ttl._kept[][]"),
    (OWNERS * BUCKETS, "buckets of owners", "_Owner.rates"),
    (4 * OWNERS + 64, "a sweep at four times the owners", "ReturnIndex._edges"),
    (4 * OWNERS + 64, "a sweep at four times the leases", "Ttl._ends"),
    (4 * POOL + 64, "a sweep at four times the groups", "ReturnIndex._heap"),
    (512, "series", "Meter._sums Meter._changed Meter._gauges Meter._totals Meter.values Meter.histograms"),
    (512 * 18, "buckets of series", "Meter.histograms[]"),
    (
        CLASSES,
        "classes of pauses",
        "Survival._rows Survival._lineages Survival._below Survival._curves Survival._returns",
    ),
    (4 * CLASSES, "each class under those above it", "Survival._below[]"),
    (2 * CLASSES, "classes of pauses, and what was asked", "Survival._release_ages"),
    (CLASSES * BUCKETS, "buckets of classes", "Curve.rates"),
    (CLASSES * (BUCKETS + 1), "edges of classes", "Curve._alive"),
    (500, "the guard's window", "Guard._turns"),
    (POOL, "the shadow's pool", "ShadowLru._last"),
    (3 * POOL, "two pools and one chain", "ShadowLru._tidy ShadowLru._later ShadowLru._tidy[][] ShadowLru._later[][]"),
    (
        12 * 256 + 1024,
        "a window for each standing, twice, and what AsymCache learns its lifespan from",
        "PauseWindow._samples",
    ),
    (8192, "marks of contexts", "Link._marks"),
    (4096, "summaries", "Link._pending"),
    (1024, "commands", "Link._commands Link._done Link._unanswered"),
    (512, "pauses to tell", "Link._pauses"),
    (2 * CONTEXTS, "contexts told of, and those forgotten since", "Link._announced"),
    (16 * 64, "the leases of the last seconds", "ServiceLeases._ends ServiceLeases._leases"),
)
"""What each map may hold after any number of turns, and why."""

PROFILE = CostProfile(c_lin=3.33e-5, c_att=6.55e-10, c0=5e-3, c_dec=1e-5, c_kv=3.4e-8)


@dataclass(eq=False)
class Agent:
    """A job as its clients know it: how it is named, its branches' chains, and what of it is on its way."""

    hints: dict[str, str]
    session: str | None
    branches: list[list[int]]
    left: int
    silent: bool  # nobody will say that it has ended
    open: int = 0


@dataclass(eq=False)
class Asked:
    """A request, and what stock vLLM would know of it beside."""

    request: Any
    agent: Agent
    output: int
    blocks: list[Any] = field(default_factory=list)


class Engine:
    """`turns` counts those that have ended, however. `carrier` takes the reports of its link, if there is one."""

    def __init__(self, seed: int, policy: str, admission: str, stats: bool, carrier: Carrier | None) -> None:
        self.turns = 0
        self._rng = random.Random(seed)
        self._stats = stats
        self._seconds = 0.0
        self._names = self._keys = self._steps = 0
        cost = CostModel(PROFILE, BLOCK_SIZE)
        inner = make_online_policy(policy, cost, POOL)
        residency = Residency(ServiceLeases(inner) if carrier else inner, POOL, CONTEXTS, parse_admission(admission))
        self.host = Host(residency, lambda: self._seconds, BLOCK_SIZE)
        if residency.admission:
            residency.admission.on_hold_end = self.host.held
        self.pacer = Pacer(self.host, parse_chunking("adaptive"), PROFILE, False, BLOCK_SIZE)
        self.pool: Any = compat.BlockPool(POOL + 1, True, BLOCK_SIZE)
        compat.adopt(self.pool, compat.BlockPool, HoleFillingBlockPool).attach(self.host)
        self.link: Link | None = None
        if carrier:
            self.link = Link(self.host, self.pool, carrier, PROFILE, BLOCK_SIZE, "engine", lambda: self._seconds)
            self.host.listeners.append(self.link.hear)
        self._agents: list[Agent] = []
        self._waiting: deque[Asked] = deque()
        self._running: list[Asked] = []
        self._scheduler: Any = SimpleNamespace(
            running=[], requests={}, max_num_scheduled_tokens=2048, max_num_running_reqs=RUNNING
        )

    @property
    def roots(self) -> list[Any]:
        """Everything of ours that may grow."""
        return [self.host, self.pacer, self.pool.free_block_queue, *([self.link] if self.link else [])]

    def check(self) -> None:
        self.host.residency.check()
        self.pool.free_block_queue.check()

    def step(self) -> None:
        """One step of the scheduler, with all that arrives and leaves around it."""
        self._steps += 1
        self._seconds += self._rng.uniform(0.005, 0.03)
        host, rng = self.host, self._rng
        while len(self._waiting) + len(self._running) < RUNNING + WAITING // 2 and rng.random() < 0.8:
            self._arrive()
        if self._waiting and rng.random() < 0.03:
            self._leave(self._waiting, rng.randrange(len(self._waiting)))
        host.tick()
        if self.link:
            self.link.poll()
        host.residency.admit(host.now)
        self.pacer.open()
        if self._running and rng.random() < 0.02:
            self._preempt(rng.randrange(len(self._running)))
        tokens = {asked.request.request_id: 1 for asked in self._running}
        for asked in list(self._waiting):
            if len(self._running) < RUNNING and host.residency.may_run(asked.request.request_id) and self._start(asked):
                tokens[asked.request.request_id] = asked.request.num_tokens
        if self._waiting and not self._running:
            host.residency.stalled()
        output: Any = SimpleNamespace(num_scheduled_tokens=tokens)
        self.pacer.scheduled(self._scheduler, output)
        self._seconds += rng.uniform(0.005, 0.03)
        host.tick()
        for number in reversed(range(len(self._running))):
            asked = self._running[number]
            asked.output -= 1
            asked.request.num_computed_tokens = asked.request.num_tokens
            if rng.random() < 0.01:
                self._leave(self._running, number)
            elif asked.output <= 0:
                self._finish(number)
        host.tick()
        self.pacer.finished(output)
        if self._stats:
            gauge(host, self.pool, BLOCK_SIZE)
        if self.link and self._steps % 8 == 0:
            self.link.exchange()
        if self._steps % 5000 == 0:
            self._lose_cache()

    # Agents

    def _arrive(self) -> None:
        rng = self._rng
        if len(self._agents) < JOBS:
            self._agents.append(self._agent())
        agent = rng.choice(self._agents)
        branch = rng.randrange(len(agent.branches))
        chain = agent.branches[branch]
        if rng.random() < 0.05 and agent.open:
            pass  # the same prompt again, while its first copy may still run
        else:
            if rng.random() < 0.1:  # an edit of the past, or a compaction
                del chain[rng.randrange(1, len(chain) + 1) :]
            chain += [self._key() for _ in range(rng.randrange(1, 5))]
            if len(chain) > CHAIN:
                agent.left = 0
            if rng.random() < 0.05 and len(agent.branches) < 4:
                agent.branches.append(chain[: rng.randrange(1, len(chain) + 1)])
        del chain[CHAIN:]
        agent.left -= 1
        last = agent.left <= 0
        hints: dict[str, Any] = dict(agent.hints)
        if rng.random() < 0.6:
            hints["this_func_call"] = rng.choice(("bash", "edit", "search", f"tool-{rng.randrange(10**6)}"))
        if last and not agent.silent and hints:
            hints["is_last_step"] = 1
        self._names += 1
        said = [] if rng.random() < 0.05 else chain  # some prompts fill no block
        asked = Asked(self._request(agent, hints, said), agent, rng.choice((1, 1, 2, 3, 6)))
        agent.open += 1
        if last:
            self._agents.remove(agent)
        self._waiting.append(asked)
        self._scheduler.requests[asked.request.request_id] = asked.request
        self.host.tick()
        self.host.arrived(asked.request)

    def _agent(self) -> Agent:
        self._names += 1
        name, rng = self._names, self._rng
        kind = rng.randrange(3)
        first = list(range(1, 1 + rng.choice((0, 0, 2, 5)))) or [self._key()]  # some share a system prompt
        return Agent(
            {"job_id": f"job-{name}"} if kind == 1 else {},
            f"session-{name}" if kind == 2 else None,
            [first],
            rng.randrange(1, 12),
            rng.random() < 0.5,
        )

    def _request(self, agent: Agent, hints: dict[str, Any], chain: list[int]) -> Any:
        params = compat.SamplingParams(max_tokens=8, extra_args=hints or None)
        tokens = len(chain) * BLOCK_SIZE + 5
        asked = Request(
            f"r{self._names}", [1] * tokens, params, None, arrival_time=self._seconds, session_id=agent.session
        )
        asked.cache_salt = SALT
        asked.block_hashes = [key.to_bytes(16, "big") for key in chain]
        return asked

    def _key(self) -> int:
        self._keys += 1
        return 1000 + self._keys

    # The scheduler

    def _start(self, asked: Asked) -> bool:
        request, pool = asked.request, self.pool
        keys = request.block_hashes
        found = [(pool.get_cached_block(key, [0]) or [None])[0] for key in keys]
        free = pool.get_num_free_blocks() - sum(block is not None and not block.ref_cnt for block in found)
        missing = sum(block is None for block in found) + 1
        if missing > free:
            return False
        pool.touch([block for block in found if block is not None])
        new = iter(pool.get_new_blocks(missing))
        asked.blocks = [block or next(new) for block in found] + list(new)
        gaps = _gaps([block is not None for block in found], request.num_tokens)
        cached = request.num_tokens - sum(end - start for start, end in gaps)
        prefix = gaps[0][0]
        self.host.observe(
            TurnScheduled(request.request_id, request.num_tokens, cached, cached - prefix, len(gaps) - 1, gaps)
        )
        self.pacer.chunk(self._scheduler, request, 0, list(gaps))
        pool.cache_full_blocks(request, asked.blocks, 0, len(keys), BLOCK_SIZE, 0)
        self._waiting.remove(asked)
        self._running.append(asked)
        self._scheduler.running.append(request)
        return True

    def _stop(self, number: int) -> Asked:
        asked = self._running.pop(number)
        self._scheduler.running.remove(asked.request)
        return asked

    def _give_back(self, asked: Asked) -> None:
        self.pool.free_blocks(reversed(asked.blocks))
        asked.blocks = []

    def _preempt(self, number: int) -> None:
        asked = self._stop(number)
        self.host.preempted(asked.request)
        self._give_back(asked)
        asked.request.num_computed_tokens = 0
        self._waiting.appendleft(asked)

    def _finish(self, number: int) -> None:
        asked = self._stop(number)
        asked.request.status = RequestStatus.FINISHED_STOPPED
        self._end(asked)

    def _leave(self, among: Any, number: int) -> None:
        """A client goes away."""
        if among is self._running:
            asked = self._stop(number)
        else:
            asked = among[number]
            del among[number]
        asked.request.status = RequestStatus.FINISHED_ABORTED
        self._end(asked)

    def _end(self, asked: Asked) -> None:
        self.turns += 1
        asked.agent.open -= 1
        self.host.finished(asked.request)
        self.pacer.forget(asked.request)
        del self._scheduler.requests[asked.request.request_id]
        self._give_back(asked)

    def _lose_cache(self) -> None:
        """Somebody resets the engine's cache, which it does when it is idle."""
        while self._running:
            self._finish(0)
        self.pool.reset_prefix_cache()
        if self.link:
            self.link.reset()


def _gaps(there: list[bool], tokens: int) -> tuple[tuple[int, int], ...]:
    """The runs of tokens that have to be computed; the last one reaches to the end."""
    gaps: list[tuple[int, int]] = []
    for index, present in enumerate(there):
        if present:
            continue
        start, end = index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE
        if gaps and gaps[-1][1] == start:
            gaps[-1] = (gaps[-1][0], end)
        else:
            gaps.append((start, end))
    start = len(there) * BLOCK_SIZE
    if gaps and gaps[-1][1] == start:
        return (*gaps[:-1], (gaps[-1][0], tokens))
    return (*gaps, (start, tokens))
