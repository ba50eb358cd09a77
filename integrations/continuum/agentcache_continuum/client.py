"""Client helper: a job's requests in the dialect of the server that they go to.

`Job` makes bodies for any client; `AsyncJob` sends them with httpx:

    async with AsyncJob(httpx.AsyncClient(base_url=url), model) as job:
        answer = await job.post("/v1/chat/completions", {"messages": messages})
"""

import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, get_args

import httpx

from agentcache.errors import ConfigError
from agentcache_continuum.fields import as_xarg
from agentcache_continuum.tools import tool_in_answer

Dialect = Literal["preview", "plugin", "agentcache", "session"]
"""How the fields travel: `preview`, at the top level of the body; `plugin`, in `vllm_xargs`; `agentcache`, there too,
with a session for each branch; `session`, vLLM's own `session_id` and the header `X-Session-ID`, and nothing else."""


class Job:
    """One program, or one branch of it: knows which tool ran last, and whether it is over.

    The id is unique unless one is given. `prefix` stands before it: two tenants behind one server need two. A branch
    shares the job, but not the id under which servers look contexts up, since both may have a turn in flight.
    """

    def __init__(self, dialect: Dialect = "agentcache", job_id: str | None = None, prefix: str = "") -> None:
        if dialect not in get_args(Dialect):
            raise ConfigError(
                f"dialect is {dialect!r}; nothing was sent", hint=f"known: {', '.join(get_args(Dialect))}"
            )
        self.dialect: Dialect = dialect
        self.id = prefix + (job_id or uuid.uuid4().hex)
        self.over = False
        self._job = self.id
        self.ran: str | None = None
        self._branches = 0

    def branch(self) -> "Job":
        """A part of the job whose turns run beside the others': a sub-agent, or one of several samples."""
        self._branches += 1
        made = Job(self.dialect, f"{self.id}.{self._branches}")
        # Servers with one context a job need another job; ours tells the contexts of a job apart by session.
        made._job = self._job if self.dialect == "agentcache" else made.id
        return made

    def body(
        self, body: Mapping[str, Any], *, tool_next: str | None = None, last: bool | None = None
    ) -> dict[str, Any]:
        """A request's body with the fields. `tool_next`: the tool that its output will call, where that is known."""
        said: dict[str, Any] = {"job_id": self._job}
        if self.ran:
            said["last_func_call"] = self.ran
        if tool_next:
            said["this_func_call"] = tool_next
        if last is not None:
            said["is_last_step"] = last
        made = dict(body)
        if self.dialect == "preview":
            return made | said
        if self.dialect == "session":
            return made | {"session_id": self.id}
        xargs = {name: value for name, raw in said.items() if (value := as_xarg(name, raw)) is not None}
        if self.dialect == "agentcache":
            made["session_id"] = self.id
        return made | {"vllm_xargs": {**(made.get("vllm_xargs") or {}), **xargs}}

    def headers(self) -> dict[str, str]:
        """Headers that go with every request."""
        return {"X-Session-ID": self.id} if self.dialect == "session" else {}

    def saw(self, answer: Mapping[str, Any]) -> None:
        """Take the tool and the end from a whole answer, as decoded JSON."""
        tool, ends = tool_in_answer(answer)
        self.ran = tool
        self.over = bool(ends)

    def closing(self) -> dict[str, Any] | None:
        """The body of a request that says that the job is over, for a job that ended without having said so.

        No such server has a route that ends a job, so it is a turn of one token, which takes up what was kept of the
        context and is the last. None where that is of no use.
        """
        if self.over or self.dialect == "session":
            return None
        return self.body({"prompt": ".", "max_tokens": 1}, last=True)


class AsyncJob:
    """A job over HTTP: sends its turns, learns from the answers, and closes on exit, error and cancellation.

    `client` is an `httpx.AsyncClient` whose base URL is the server's; `model` names the model of its requests.
    """

    def __init__(self, client: httpx.AsyncClient, model: str, job: Job | None = None) -> None:
        self._client = client
        self._model = model
        self.job = job or Job()

    async def __aenter__(self) -> "AsyncJob":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def post(
        self, path: str, body: Mapping[str, Any], *, last: bool | None = None, tool_next: str | None = None
    ) -> Any:
        """Send one turn, not streamed; returns the decoded answer. Raises `httpx.HTTPStatusError`."""
        sent = self.job.body({"model": self._model, **body}, last=last, tool_next=tool_next)
        answer = await self._client.post(path, json=sent, headers=self.job.headers())
        answer.raise_for_status()
        decoded = answer.json()
        self.job.saw(decoded)
        if last:
            self.job.over = True
        return decoded

    def branch(self) -> "AsyncJob":
        """A branch of the job, with an id of its own."""
        return AsyncJob(self._client, self._model, self.job.branch())

    async def close(self) -> None:
        """Say that the job is over, unless it has; a server that does not answer is left alone."""
        body = self.job.closing()
        self.job.over = True
        if body is None:
            return
        try:
            await self._client.post("/v1/completions", json={"model": self._model, **body}, timeout=5.0)
        except httpx.HTTPError:
            return
