"""One run of a cluster: the jobs of a closed loop, every turn sent where the router says, replicas in order of time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentcache.cost import CostModel, CostProfile
from agentcache.errors import CheckFailed
from agentcache.service.routing.costs import Rates
from agentcache.sim.queueing import Call, Engine, Running
from agentcache_workloads.cluster.replica import SimReplica
from agentcache_workloads.cluster.routers import Ask, Router, make_router
from agentcache_workloads.replay.engines.queueing import SimulatedCalls, make_residency
from agentcache_workloads.replay.jobs.closed_loop import ClosedLoop, TurnEnd, drive
from agentcache_workloads.replay.jobs.jobs import PlannedJob, PlannedTurn
from agentcache_workloads.replay.jobs.render import Renderer
from agentcache_workloads.replay.result import CallRecord, JobRecord
from agentcache_workloads.replay.spec import RunSpec


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """What became of the jobs. `placed`: by turn, its replica. `spare_blocks`: those that the service had evicted."""

    calls: list[CallRecord]
    jobs: list[JobRecord]
    placed: dict[str, str]
    moves: int
    spare_blocks: int
    makespan_s: float


class Cluster:
    """Replicas, and the router before them. `duplicates`: a copy that a turn elsewhere has overtaken is evicted."""

    def __init__(self, replicas: Sequence[SimReplica], router: Router, duplicates: bool) -> None:
        self.replicas = {replica.name: replica for replica in replicas}
        self.placed: dict[str, str] = {}
        self.moves = self.spare_blocks = 0
        self._router, self._duplicates = router, duplicates
        self._homes: dict[str, str] = {}  # of contexts

    @property
    def next_s(self) -> float | None:
        """When the next step ends; None while nothing runs."""
        return min((r.until_s for r in self.replicas.values() if r.until_s is not None), default=None)

    def send(self, call: Call, job: str, now: float) -> None:
        """A turn is due."""
        open_turns = {name: len(replica.entries) + len(replica.inbox) for name, replica in self.replicas.items()}

        def resident() -> Mapping[str, int]:
            return {name: replica.resident_tokens(call) for name, replica in self.replicas.items()}

        name = self._router.choose(Ask(call.id, job, call.prompt_tokens, open_turns, resident), now)
        self.placed[call.id] = name
        self.replicas[name].send(call, now)

    def finish(self, now: float) -> list[Running]:
        """The calls that end with steps that are over."""
        over = []
        for replica in self.replicas.values():
            if replica.until_s is None or replica.until_s > now:
                continue
            for entry in (*replica.engine.running, *replica.ending):
                if entry.first_token_s == replica.until_s:
                    self._router.started(entry.call.id, now)
            for entry in replica.ending:
                self._router.finished(entry.call.id, now)
                self._settle(entry.call, replica, now)
            over += replica.ending
            replica.until_s, replica.ending = None, []
        return over

    def _settle(self, call: Call, replica: SimReplica, now: float) -> None:
        """A turn has run here: a copy of its context elsewhere is spare now."""
        if call.context is None:
            return
        before = self._homes.get(call.context)
        self._homes[call.context] = replica.name
        if before is not None and before != replica.name:
            self.moves += 1
            if self._duplicates:
                self.spare_blocks += self.replicas[before].evict(call.context, now)

    def step(self, now: float, next_due_s: float | None) -> None:
        """Begin a step on every replica that has something to do and takes none."""
        for replica in self.replicas.values():
            if replica.until_s is None and (replica.inbox or replica.engine.busy):
                others = [r.soonest_s for r in self.replicas.values() if r is not replica and r.until_s is not None]
                replica.step(now, min([*others, float("inf") if next_due_s is None else next_due_s]))

    def end(self, job: str) -> None:
        self._router.ended(job)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        for replica in self.replicas.values():
            replica.engine.check()
            if replica.inbox or replica.engine.busy:
                raise CheckFailed(f"replica {replica.name} has calls left")
        served = sum(replica.served for replica in self.replicas.values())
        if served != len(self.placed):
            raise CheckFailed(f"{served} calls were sent, {len(self.placed)} have a replica")


class _Host:
    """A cluster as the host of a loop; its clock goes from one end of a step, or due turn, to the next."""

    def __init__(self, cluster: Cluster, calls: SimulatedCalls) -> None:
        self.now = 0.0
        self._cluster, self._calls = cluster, calls

    def send(self, due_s: float, number: int, turn: PlannedTurn, last: bool) -> None:
        self._cluster.send(self._calls.make(due_s, number, turn, last), self._calls.jobs[number].id, self.now)

    def run(self, until_s: float | None) -> Iterator[TurnEnd]:
        self._cluster.step(self.now, until_s)
        self.now = min(at for at in (until_s, self._cluster.next_s) if at is not None)
        for entry in self._cluster.finish(self.now):
            yield self._calls.end(entry, self.now)

    def leave(self, number: int) -> None:
        self._calls.leave(number)
        self._cluster.end(self._calls.jobs[number].id)


def run_cluster(
    spec: RunSpec,
    jobs: Sequence[PlannedJob],
    renderer: Renderer,
    profile: CostProfile,
    *,
    router: str,
    replicas: int,
    max_seqs: int = 256,
    duplicates: bool = True,
) -> ClusterRun:
    """Run jobs, in the order given, to their end, as `spec` says of each replica; deterministic.

    The seed is the router's. Raises `ConfigError` for a bad spec, `InputError` for a turn that a pool could never hold.
    """
    cost = CostModel(profile, spec.block_size)
    names = [f"r{number:02}" for number in range(replicas)]
    cluster = Cluster(
        [
            SimReplica(name, Engine(make_residency(spec, cost), cost, spec.max_batched_tokens, max_seqs), cost)
            for name in names
        ],
        make_router(router, names, Rates(profile.c_lin, profile.c_att), spec.seed),
        duplicates,
    )
    loop = ClosedLoop(jobs, spec.slots, spec.time_scale, 0.0)
    calls = SimulatedCalls(spec, jobs, renderer)
    host = _Host(cluster, calls)
    drive(loop, host)
    cluster.check()
    return ClusterRun(
        calls=calls.records,
        jobs=loop.records(),
        placed=cluster.placed,
        moves=cluster.moves,
        spare_blocks=cluster.spare_blocks,
        makespan_s=host.now,
    )
