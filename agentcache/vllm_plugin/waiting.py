"""vLLM's queue of waiting requests, in the order of admission."""

from agentcache.vllm_plugin.compat import FCFSRequestQueue
from agentcache.vllm_plugin.host import Host


class RankedQueue(FCFSRequestQueue):
    """Stands in the place of either of vLLM's queues: ranks begin with priorities that count, ties keep their order.

    A step takes from the front, and puts back there what it has skipped, so the order lasts until a rank changes.
    """

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._version: int | None = None

    def reorder(self) -> None:
        """Put the queue in order, before a step looks at it."""
        admission = self._host.residency.admission
        assert admission, "without a rule there is no order of ours"
        if self._version == admission.version:
            return
        self._version = admission.version
        ordered = sorted(self, key=lambda request: admission.rank(request.request_id))
        self.clear()
        self.extend(ordered)
