"""The residency actor as an ingress asks it: found when it is needed, anew after it was lost."""

import asyncio
from typing import Any

import ray

from agentcache.api.messages import Action, Answer, Explanation, Snapshot
from agentcache.service.actor import ensure_service


class RemoteService:
    """Async calls to the actor; they raise what Ray raises while it is away."""

    def __init__(self, config: dict[str, Any], namespace: str) -> None:
        self._config, self._namespace = config, namespace
        self._actor: Any = None

    async def apply(self, action: Action, tenant: str) -> Answer:
        answer: Answer = await self._ask("apply", action, tenant)
        return answer

    async def snapshot(self, tenant: str | None, limit: int) -> Snapshot:
        taken: Snapshot = await self._ask("snapshot", tenant, limit)
        return taken

    async def explain(self, tenant: str, job: str) -> Explanation:
        told: Explanation = await self._ask("explain", tenant, job)
        return told

    async def _ask(self, method: str, *args: Any) -> Any:
        if self._actor is None:
            # It may have to be started, which takes calls that wait.
            self._actor = await asyncio.to_thread(ensure_service, self._config, self._namespace)
        try:
            return await getattr(self._actor, method).remote(*args)
        except ray.exceptions.RayActorError:
            self._actor = None
            raise
