"""Serve's custom request router: a turn goes where it costs least, by expected queue delay and rebuild seconds."""

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from agentcache.service.call import Plan
from agentcache.service.costs import Ledger, choose, elsewhere, rates

ROUTER = "agentcache.service.router:ResidencyRouter"


class ResidencyRouter(RequestRouter):
    """Ranks all replicas for the request's `plan`, so that a full best one falls through to the next.

    The plan is a keyword argument of the choice. A request without one goes to the shortest queue, as Serve does it.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        self.ledger = Ledger()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        plan = pending_request.kwargs.get("plan") if pending_request else None
        if not isinstance(plan, Plan):
            return [candidate_replicas]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        stats = {name: replica.routing_stats for name, replica in replicas.items()}
        self.ledger.forget()
        waiting_s, requests = self.ledger.waiting_s(), self.ledger.requests()
        ranks = choose(
            plan,
            {name: waiting_s[name] + elsewhere(told, "waiting_s", plan.source) for name, told in stats.items()},
            {name: requests[name] + elsewhere(told, "open", plan.source) for name, told in stats.items()},
            {name: rates(told) for name, told in stats.items()},
        )
        if ranks and pending_request:
            # Counted before it is sent: those that arrive in the same moment see it.
            self.ledger.open[pending_request.metadata.internal_request_id] = plan
        return [[replicas[name] for name in rank] for rank in ranks]
