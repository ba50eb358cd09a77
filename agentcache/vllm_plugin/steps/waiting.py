"""vLLM's queue of waiting requests, in the order of admission, and beside it those that admission holds."""

from collections.abc import Iterable, Iterator
from itertools import chain

from agentcache.vllm_plugin.compat import FCFSRequestQueue, Request
from agentcache.vllm_plugin.host import Host
from agentcache.vllm_plugin.overrides import Joined, own


class RankedQueue(Joined, FCFSRequestQueue):
    """Stands in the place of either of vLLM's queues: ranks begin with priorities that count, ties keep their order.

    A step takes from the front, and puts back there what it has skipped, so the order lasts until a rank changes. Of
    `held` requests it sees nothing: it would skip each of them in every step. They count and can be removed.
    """

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.held: dict[Request, None] = {}
        self._host = host
        self._seen: tuple[int, object] | None = None

    @own
    def reorder(self) -> bool:
        """Put the queue in order, before a step looks at it; whether there was anything to do."""
        admission = self._host.residency.admission
        assert admission, "without a rule there is no order of ours"
        seen = admission.version, admission.choice
        if self._seen and self._seen[0] == seen[0] and self._seen[1] is seen[1]:
            return False
        self._seen = seen
        ordered = sorted(self, key=lambda request: admission.rank(request.request_id))
        # Who has blocks keeps them while it waits, so that holding it would serve nobody.
        self.held = {one: None for one in ordered if not (one.num_computed_tokens or admission.may_run(one.request_id))}
        self.clear()
        self.extend(one for one in ordered if one not in self.held)
        return True

    def remove_request(self, request: Request) -> None:
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        gone = set(requests)
        for request in gone & self.held.keys():
            del self.held[request]
        left = [request for request in super().__iter__() if request not in gone]
        self.clear()
        self.extend(left)

    def __bool__(self) -> bool:
        """Whether a step may take somebody."""
        return bool(super().__len__())

    def __len__(self) -> int:
        waiting: int = super().__len__()
        return waiting + len(self.held)

    def __iter__(self) -> Iterator[Request]:
        return chain(super().__iter__(), self.held)
