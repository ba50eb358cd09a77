"""The directory: which contexts the cluster knows, which engine holds how much of each, and what should change.

Plain and synchronous: messages and the time go in, messages come out. It opens nothing, waits for nothing and knows
nothing of Ray; `actor` puts it on the network. What it holds can be lost: engines announce themselves again.
"""

import time
from uuid import uuid4

from msgspec.structs import replace

from agentcache.api.messages import Action, Answer, Explanation, Parameters, Reply, Report, Snapshot
from agentcache.service.directory import views
from agentcache.service.directory.actions import Actions
from agentcache.service.directory.books import QUEUE, Books, DirectoryConfig, KnownEngine
from agentcache.service.directory.census import Census
from agentcache.service.directory.clock import SteadyClock
from agentcache.service.directory.outbox import Outbox
from agentcache.service.directory.shared_pauses import PauseExchange
from agentcache.service.directory.upkeep import Upkeep

__all__ = ["Directory", "DirectoryConfig"]

_PAUSES_A_REPLY = 200


class Directory:
    """The cluster's residency. Every call takes the time in seconds, from any clock: one that goes back stands still,
    and one that leaps, because the process or its machine slept, costs nobody its lease or its heartbeat.
    """

    def __init__(self, config: DirectoryConfig | None = None, incarnation: float | None = None) -> None:
        """Raises `ConfigError` for options that cannot be used."""
        self.config = config = config or DirectoryConfig()
        self.service = uuid4().hex[:12]
        self.incarnation = time.time() if incarnation is None else incarnation
        self.period_s = config.period_s  # longer while whoever runs this has more to do than it can
        self.pauses = PauseExchange()
        self._clock = SteadyClock(config.heartbeat_s / 2)
        self._books = Books(config)
        self._outbox = Outbox(self._books)
        self._census = Census(self._books, self._outbox)
        self._actions = Actions(self._books, self._outbox)
        self._upkeep = Upkeep(self._books, self._census, self._outbox, self.pauses)

    @property
    def counts(self) -> dict[str, int]:
        """What has happened so far."""
        return self._books.counts | {"clock_leaps": self._clock.leaps}

    def __len__(self) -> int:
        """Contexts known now."""
        return len(self._books.by_id)

    def check(self) -> None:
        """Recount; raise `CheckFailed` with the equation that does not hold."""
        self._books.check()

    # Engines

    def report(self, report: Report, now: float) -> Reply:
        """Take a batch of deltas in; returns what the engine should do and go by."""
        now = self._clock.at(now)
        engine = self._books.engines.get(report.engine)
        if engine is None or engine.epoch != report.epoch:
            if engine is not None:
                self._census.lose(engine, "restarted", now)
            engine = self._books.engines[report.engine] = KnownEngine(report.engine, report.epoch, now)
            engine.resync = not report.full
            self.pauses.forget(report.engine)
        elif report.seq <= engine.seq:
            self._books.count("reports_repeated")
            return self._reply(engine)
        elif report.seq != engine.seq + 1:
            self._books.count("reports_missed", report.seq - engine.seq - 1)
            engine.resync = True
        self._books.count("reports")
        since, engine.heard_at, engine.seq = engine.heard_at, now, report.seq
        engine.capacity_tokens, engine.free_tokens = report.capacity_tokens, report.free_tokens
        engine.resync |= report.dropped > engine.dropped  # what it lost it must show again
        engine.dropped = report.dropped
        engine.c_lin, engine.c_att = report.c_lin or self.config.c_lin, report.c_att or self.config.c_att
        engine.load_s = report.load_s
        self.pauses.hear(report.engine, report.pauses)
        for done in report.done:
            engine.sent.pop(done.command, None)
            self._books.count(f"commands_{done.outcome}")
        if report.full:
            engine.resync = False
            named = {state.id for state in report.contexts}
            for local_id in [name for name in engine.copies if name not in named]:
                self._census.gone(engine, local_id, now)
            if engine.sent:
                self._books.count("commands_lost", len(engine.sent))
                engine.sent.clear()
        for state in report.contexts:
            if state.state == "gone":
                self._census.gone(engine, state.id, now)
            else:
                self._census.show(engine, state, now, since)
        if report.full:
            self._outbox.remind(engine, now)
        self._upkeep.tick(now)
        return self._reply(engine)

    def _reply(self, engine: KnownEngine) -> Reply:
        commands = []
        while engine.queue:
            command = engine.queue.popleft()
            engine.sent[command.id] = self._clock.now
            commands.append(command)
        while len(engine.sent) > QUEUE:  # it reports, but does not say what it did
            del engine.sent[next(iter(engine.sent))]
            self._books.count("commands_lost")
            engine.resync = True
        return Reply(
            service=self.service,
            incarnation=self.incarnation,
            seq=engine.seq,
            resync=engine.resync,
            parameters=Parameters(period_s=self.period_s, pauses=self.pauses.tell(engine.name, _PAUSES_A_REPLY)),
            commands=tuple(commands),
        )

    # Clients

    def apply(self, action: Action, tenant: str, now: float) -> Answer:
        """Do what a client says about a job of its tenant's. One `request_id` is carried out once."""
        return self._actions.apply(action, tenant, self._clock.at(now))

    # The clock

    def tick(self, now: float) -> None:
        """Let time pass: silent engines, expired leases, idle contexts. To be called every half heartbeat or more."""
        self._upkeep.tick(self._clock.at(now))

    # Looking

    def snapshot(self, tenant: str | None, limit: int, now: float) -> Snapshot:
        """What is known now, of one tenant or (None) of all; at most `limit` contexts, the latest first."""
        seen = views.snapshot(self._books, tenant, limit, self._clock.at(now))
        if tenant is not None:  # tools and their pauses are everybody's together
            return replace(seen, service=self.service)
        return replace(seen, service=self.service, pauses=self.pauses.views(), counts=self.counts)

    def explain(self, tenant: str, job: str, now: float) -> Explanation:
        """Why a job's contexts are where they are; `missing` for a job that is not known to this tenant."""
        return views.explain(self._books, tenant, job, self._clock.at(now))
