"""ASGI middleware of vLLM's server with several data-parallel engines: all turns of a job go to one of them.

vLLM picks an engine for each turn by load alone, so that a context is computed again in each that it meets. Any of the
server's processes must pick the same one without a word to the others: the engine is a hash of who the job is. That is
its id, where the request says one, or how its conversation begins. A request that names an engine keeps it.
"""

import json
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from agentcache.vllm_plugin.launch.bodies import App, Receive, Scope, Send, is_turn, whole_body

HEADER = b"x-data-parallel-rank"
SESSION = b"x-session-id"


class JobRanks:
    """`--middleware agentcache.vllm_plugin.launch.ranks.JobRanks`; `agentcache serve` adds it by itself."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        engines = _engines(scope) if is_turn(scope) else 1
        if engines > 1 and HEADER not in (headers := dict(scope["headers"])):
            body, receive = await whole_body(receive)
            if body and (job := job_of(body, headers.get(SESSION))):
                rank = (HEADER, str(rank_of(job, engines)).encode())
                scope = {**scope, "headers": [*scope["headers"], rank]}
        await self.app(scope, receive, send)


def _engines(scope: Scope) -> int:
    """How many engines this server chooses from; another's choice, as that of an external balancer, stays."""
    config = getattr(getattr(scope.get("app"), "state", None), "vllm_config", None)
    if config is None or config.parallel_config.local_engines_only:
        return 1
    return int(config.parallel_config.data_parallel_size)


def rank_of(job: bytes, engines: int) -> int:
    """The engine of a job: the one with which it hashes highest, so that most jobs stay when some are added."""
    return max(range(engines), key=lambda rank: blake2b(job + b"/%d" % rank, digest_size=8).digest())


def job_of(body: bytes, session: bytes | None = None) -> bytes | None:
    """What names the job of a request: an id, or the beginning of its conversation; None where neither is told."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(asked, dict):
        return None
    given = asked.get("vllm_xargs")
    extra = given if isinstance(given, dict) else {}
    salt = str(asked.get("cache_salt") or "")
    for name in (extra.get("job_id"), extra.get("session_id"), session and session.decode("latin-1")):
        if isinstance(name, str) and name:
            return f"{salt}/{name}".encode(errors="surrogatepass")
    messages = asked.get("messages") or asked.get("input")
    if not isinstance(messages, list):
        return None
    begin = [salt, asked.get("system"), asked.get("instructions"), *_beginning(messages)]
    return json.dumps(begin, sort_keys=True).encode()


def _beginning(messages: Iterable[Any]) -> list[Any]:
    """A conversation up to its first answer, which is not there before it is given and may come back changed."""
    begin = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") in ("assistant", "tool"):
            break
        begin.append([message.get("role"), message.get("content")])
    return begin
