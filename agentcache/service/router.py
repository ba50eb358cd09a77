"""Serve's custom request router: a turn goes where it costs least, by expected queue delay and rebuild seconds."""

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from agentcache.service.routing.call import Plan
from agentcache.service.routing.costs import Ledger, choose, elsewhere, rates
from agentcache.service.routing.guests import Guests


class ResidencyRouter(RequestRouter):
    """Ranks all replicas for the request's `plan`, so that a full best one falls through to the next.

    The plan is a keyword argument of the choice. Requests of `ray.serve.llm`, in whose configuration this class may
    stand as the router, have none and get one here. Any other goes to the shortest queue, as Serve does it.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        self.ledger = Ledger()
        self.guests = Guests()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        brought = pending_request.kwargs.get("plan")
        metadata = pending_request.metadata
        plan = brought or self.guests.plan(pending_request.args, metadata.session_id)
        if not isinstance(plan, Plan):
            return [candidate_replicas]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        stats = {name: replica.routing_stats for name, replica in replicas.items()}
        self.ledger.forget()
        waiting_s, requests = self.ledger.waiting_s(), self.ledger.requests()
        waits = {name: waiting_s[name] + elsewhere(told, "waiting_s", plan.source) for name, told in stats.items()}
        others = {name: requests[name] + elsewhere(told, "open", plan.source) for name, told in stats.items()}
        ranks = choose(plan, waits, others, {name: rates(told) for name, told in stats.items()})
        if plan.replica:
            # Counted before it is sent: those that arrive in the same moment see it.
            self.ledger.open[metadata.internal_request_id] = plan
            if not brought:
                self.guests.sent(plan, waits[plan.replica])
                # One that is given up before it is sent is never said to have been completed.
                pending_request.future.add_done_callback(lambda sent: _end(plan) if sent.cancelled() else None)
        return [[replicas[name] for name in rank] for rank in ranks]

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        if plan := self.ledger.open.get(internal_request_id):
            _end(plan)


def _end(plan: Plan) -> None:
    plan.ended = True
