"""The books of the directory: engines, tenants, jobs and contexts, and the sums over them that must hold."""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from sortedcontainers import SortedSet

from agentcache.api.messages import Answer, Command, Run, tenant_of
from agentcache.cost import CostModel, CostProfile
from agentcache.errors import CheckFailed, ConfigError
from agentcache.policy import make_online_policy
from agentcache.service.directory.holdings import Held, Holdings, Record
from agentcache.service.directory.sampled_survival import ClusterSurvival


class DirectoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of the directory, with their defaults.

    `policy`: what orders contexts when a budget is exceeded: `return-index`, `asymcache` with options, or any other.
    `budget_tokens`: what one tenant may hold in all engines together; None for no limit; `budgets` by tenant.
    `lease_tokens`, `lease_s`: what of it may be leased, and for how long at a time. `heartbeat_s`: an engine that is
    silent for longer is forgotten. `idle_out_s`: so is a context that nobody used. `max_contexts` and `max_pages` of
    `page_tokens` tokens bound memory. `period_s`: how often engines report. `duplicates`: whether copies that a turn
    elsewhere has overtaken are evicted. `c_lin` and `c_att` price tokens until an engine says what they cost it.
    """

    policy: str = "return-index"
    budget_tokens: int | None = None
    budgets: dict[str, int] = {}
    lease_tokens: int = 1 << 20
    lease_s: float = 600.0
    max_leases: int = 1024
    heartbeat_s: float = 5.0
    idle_out_s: float = 3600.0
    max_contexts: int = 200_000
    max_pages: int = 1 << 20
    max_tenants: int = 1024
    page_tokens: int = 8192
    period_s: float = 0.25
    ack_s: float = 10.0
    duplicates: bool = True
    c_lin: float = 3.33e-5
    c_att: float = 6.55e-10


QUEUE = 1024
"""Commands that wait for an engine's next report."""


@dataclass(slots=True)
class Granted:
    until: float
    keep_priority: int
    tokens: int


@dataclass(slots=True, eq=False)
class KnownJob:
    id: str
    touched_at: float
    contexts: dict[str, Record] = field(default_factory=dict)
    places: Counter[tuple[str, str]] = field(default_factory=Counter)  # copies by engine and its name of the job
    waiting: int = 0  # contexts that have not ended
    leases: dict[str, Granted] = field(default_factory=dict)
    ended: bool = False
    decisions: deque[str] = field(default_factory=lambda: deque(maxlen=16))
    paid_s: float = 0.0
    saved_s: float = 0.0


@dataclass(slots=True, eq=False)
class KnownEngine:
    name: str
    epoch: str
    heard_at: float
    seq: int = 0
    capacity_tokens: int = 0
    free_tokens: int = 0
    dropped: int = 0
    resync: bool = False
    c_lin: float = 0.0
    c_att: float = 0.0
    load_s: float = 0.0
    copies: dict[str, Held] = field(default_factory=dict)  # by the engine's own name of the context
    queue: deque[Command] = field(default_factory=lambda: deque(maxlen=QUEUE))
    sent: dict[int, float] = field(default_factory=dict)  # commands that it has not answered, and since when
    tokens: int = 0


@dataclass(slots=True, eq=False)
class TenantBooks:
    holdings: Holdings
    jobs: int = 0
    contexts: OrderedDict[str, Record] = field(default_factory=OrderedDict)
    leased: dict[str, KnownJob] = field(default_factory=dict)
    leased_tokens: int = 0
    leases: int = 0
    tokens: int = 0
    answers: OrderedDict[str, Answer] = field(default_factory=OrderedDict)  # to the latest requests that bore an id


class Books:
    """Who holds what. Orders of dictionaries are of use: the least recently touched job and context come first."""

    def __init__(self, config: DirectoryConfig) -> None:
        """Raises `ConfigError` for options that cannot be used."""
        for name in ("heartbeat_s", "idle_out_s", "period_s", "max_contexts", "max_pages", "page_tokens", "c_lin"):
            if not getattr(config, name) > 0:
                raise ConfigError(f"{name} is {getattr(config, name)}, expected more than 0; nothing was started")
        self.config = config
        self.counts: dict[str, int] = {}
        self.tenants: dict[str, TenantBooks] = {}
        self.engines: dict[str, KnownEngine] = {}
        self.jobs: OrderedDict[str, KnownJob] = OrderedDict()
        self.era = 0  # one lasts for `idle_out_s`
        self.idle_tenants: dict[str, int] = {}  # those without jobs, and since which era
        self.expiries: SortedSet[tuple[float, str, str]] = SortedSet()  # (until, job, lease)
        self.records: dict[int, Record] = {}
        self.by_id: OrderedDict[str, Record] = OrderedDict()
        self.pages = 0
        self.over: set[str] = set()  # tenants whose use has grown
        self._cost = CostModel(CostProfile(c_lin=config.c_lin, c_att=config.c_att), config.page_tokens)
        self._survival = ClusterSurvival()
        make_online_policy(config.policy, self._cost, config.max_pages)  # the spec is wrong now, or never

    def tenant(self, job_id: str) -> TenantBooks:
        """The books of the tenant that an id belongs to, new ones if there are none."""
        name = tenant_of(job_id)
        tenant = self.tenants.get(name)
        if tenant is None:
            config = self.config
            if len(self.tenants) >= config.max_tenants:
                self.drop_tenants(self.era)
            policy = make_online_policy(config.policy, self._cost, config.max_pages)
            holdings = Holdings(policy, self._survival, config.max_pages, config.max_contexts, config.page_tokens)
            tenant = self.tenants[name] = TenantBooks(holdings)
            self.idle_tenants[name] = self.era
        return tenant

    def drop_tenants(self, era: int) -> None:
        """Forget the tenants that have had no jobs since that era or an earlier one."""
        for name, since in list(self.idle_tenants.items()):
            if since > era:
                break
            del self.tenants[name], self.idle_tenants[name]

    def job(self, job_id: str, now: float) -> KnownJob:
        """The job of this id, a new one if there is none."""
        job = self.jobs.get(job_id)
        if job is None:
            job = self.jobs[job_id] = KnownJob(job_id, now)
            self.tenant(job_id).jobs += 1
            self.idle_tenants.pop(tenant_of(job_id), None)
            self.count("jobs")
        return job

    def close(self, job: KnownJob) -> None:
        """Forget a job that has no contexts."""
        self.drop_leases(job)
        del self.jobs[job.id]
        tenant = self.tenant(job.id)
        tenant.jobs -= 1
        if not tenant.jobs:
            self.idle_tenants[tenant_of(job.id)] = self.era

    def enter(self, record: Record, job: KnownJob) -> None:
        """A context is new."""
        self.records[record.number] = self.by_id[record.id] = job.contexts[record.id] = record
        job.waiting += 1
        self.tenant(job.id).contexts[record.id] = record

    def touch(self, record: Record) -> None:
        """A context has changed: it is the latest."""
        self.by_id.move_to_end(record.id)
        self.tenant(record.job).contexts.move_to_end(record.id)

    def stand(self, record: Record, standing: str) -> None:
        """A context stands so now."""
        self.jobs[record.job].waiting += (record.standing == "ended") - (standing == "ended")
        record.standing = standing

    def strike(self, record: Record) -> None:
        """A context is known no more."""
        self.stand(record, "ended")
        del self.records[record.number], self.by_id[record.id]
        del self.jobs[record.job].contexts[record.id], self.tenant(record.job).contexts[record.id]

    def held(self, engine: KnownEngine, tenant: TenantBooks, more: int) -> None:
        """An engine holds so many more tokens of a tenant's contexts."""
        engine.tokens += more
        tenant.tokens += more

    def lease(self, job: KnownJob, lease_id: str, lease: Granted) -> None:
        """A job has a lease, a new one or a renewed one."""
        if lease_id in job.leases:
            self.drop_lease(job, lease_id)
        tenant = self.tenant(job.id)
        before = leased_tokens(job)
        job.leases[lease_id] = lease
        tenant.leased_tokens += leased_tokens(job) - before
        tenant.leases += 1
        tenant.leased[job.id] = job
        self.expiries.add((lease.until, job.id, lease_id))

    def drop_lease(self, job: KnownJob, lease_id: str) -> None:
        tenant = self.tenant(job.id)
        before = leased_tokens(job)
        lease = job.leases.pop(lease_id)
        tenant.leased_tokens += leased_tokens(job) - before
        tenant.leases -= 1
        if not job.leases:
            del tenant.leased[job.id]
        self.expiries.remove((lease.until, job.id, lease_id))

    def drop_leases(self, job: KnownJob) -> None:
        for lease_id in list(job.leases):
            self.drop_lease(job, lease_id)

    def missing_s(self, engine: KnownEngine, runs: Iterable[Run], tokens: int, below: Iterable[Run] = ()) -> float:
        """Seconds on an engine for what of [0, tokens) is in none of the runs: of prefill, or of loads from below."""
        at, seconds = 0, 0.0
        there = sorted([*((*run, False) for run in runs), *((*run, True) for run in below)])
        for start, end, is_below in (*there, (tokens, tokens, False)):
            low, high = at, min(start, tokens)
            if low < high:
                seconds += self._prefill_s(engine, low, high)
            at, first = max(at, end), max(at, start)
            if is_below and first < (last := min(end, tokens)):
                seconds += min(engine.load_s * (last - first), self._prefill_s(engine, first, last))
        return seconds

    @staticmethod
    def _prefill_s(engine: KnownEngine, start: int, end: int) -> float:
        return engine.c_lin * (end - start) + engine.c_att * (end * end - start * start)

    def budget_tokens(self, tenant: str) -> int | None:
        """What a tenant may hold in all engines together."""
        return self.config.budgets.get(tenant, self.config.budget_tokens)

    def note(self, job_id: str, what: str) -> None:
        if job := self.jobs.get(job_id):
            job.decisions.append(what)

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        of_tenants: dict[str, list[KnownJob]] = {name: [] for name in self.tenants}
        for job in self.jobs.values():
            of_tenants[tenant_of(job.id)].append(job)
        for name, tenant in self.tenants.items():
            tenant.holdings.check()
            copies, jobs = list(tenant.holdings), of_tenants[name]
            _equal(f"tokens of tenant {name!r}", sum(copy.tokens for copy in copies), tenant.tokens)
            _equal(f"contexts of tenant {name!r}", len({copy.record for copy in copies}), len(tenant.contexts))
            _equal(f"jobs of tenant {name!r}", len(jobs), tenant.jobs)
            _equal(f"leased tokens of {name!r}", sum(map(leased_tokens, jobs)), tenant.leased_tokens)
            _equal(f"leases of {name!r}", sum(len(job.leases) for job in jobs), tenant.leases)
            _equal(f"leased jobs of {name!r}", sum(bool(job.leases) for job in jobs), len(tenant.leased))
            _equal(f"{name!r} among the idle tenants", int(not jobs), int(name in self.idle_tenants))
        for engine in self.engines.values():
            held = sum(copy.tokens for copy in engine.copies.values())
            _equal(f"tokens in engine {engine.name}", held, engine.tokens)
        _equal("pages", sum(tenant.holdings.pages for tenant in self.tenants.values()), self.pages)
        _equal("contexts", len(self.records), len(self.by_id))
        _equal("contexts of jobs", sum(len(job.contexts) for job in self.jobs.values()), len(self.by_id))
        of_engines = sum(len(engine.copies) for engine in self.engines.values())
        _equal("copies", sum(len(record.copies) for record in self.by_id.values()), of_engines)
        for job in self.jobs.values():
            copies = [copy for record in job.contexts.values() for copy in record.copies.values()]
            _equal(f"copies of {job.id}", len(copies), job.places.total())
            waiting = sum(record.standing != "ended" for record in job.contexts.values())
            _equal(f"contexts of {job.id} that have not ended", waiting, job.waiting)
            if job.places.keys() != {(copy.engine, copy.local_job) for copy in copies}:
                raise CheckFailed(f"{job.id} has copies in other places than {list(job.places)}")
        _equal("leases that expire", sum(len(job.leases) for job in self.jobs.values()), len(self.expiries))
        if len(self.by_id) > self.config.max_contexts or self.pages > self.config.max_pages:
            raise CheckFailed(f"{len(self.by_id)} contexts or {self.pages} pages are over their bounds")
        for record in self.by_id.values():
            if (record.home is None) != (not record.copies) or (record.home and record.home not in record.copies):
                raise CheckFailed(f"{record.id} has its home in {record.home}, copies in {list(record.copies)}")


def leased_tokens(job: KnownJob) -> int:
    """What a job's leases keep; they are of the same contexts."""
    return max((lease.tokens for lease in job.leases.values()), default=0)


def _equal(what: str, counted: int, written: int) -> None:
    if counted != written:
        raise CheckFailed(f"{what}: {counted} counted, {written} written down")
