"""Trees of agents as three clients send them: one id for a parent and its sub-agents, and what they change every turn.

Made here, after the shapes that Claude Code, Codex and opencode have on the wire: blocks whose cache mark wanders to
the end, a bill that is another one in every call, a call for a title beside the conversation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request, and the agent who truly asks."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    agent: str


def words(seed: str, count: int) -> str:
    rng = Random(seed)
    return " ".join(f"{rng.getrandbits(20):05x}" for _ in range(count))


def tools(*names: str) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    return [{"name": name, "description": words(name, 20), "input_schema": schema} for name in names]


def claude(tree: str, agent: str, turns: int) -> Iterator[Asked]:
    """Anthropic's Messages: a sub-agent has a system prompt and fewer tools of its own."""
    kind = agent.partition("-")[0]
    mark = {"cache_control": {"type": "ephemeral"}}
    first: list[dict[str, Any]] = [{"type": "text", "text": words(f"reminder {kind}", 30)}]
    first.append({"type": "text", "text": words(agent, 30)})
    said: list[dict[str, Any]] = [{"role": "user", "content": first}]
    said.append({"role": "system", "content": words(f"extra {kind}", 60)})
    for turn in range(turns):
        bill = {"type": "text", "text": f"x-anthropic-billing-header: cch={words(f'{agent} {turn}', 1)};"}
        system = [bill, {"type": "text", "text": words(f"system {kind}", 200), **mark}]
        names = ("Agent", "Bash", "Edit") if kind == "main" else ("Bash", "Edit")
        messages = [dict(message) for message in said]
        last = next(message for message in reversed(messages) if isinstance(message["content"], list))
        last["content"] = [*last["content"][:-1], {**last["content"][-1], **mark}]
        body = {"model": "m", "max_tokens": 9, "system": system, "tools": tools(*names), "messages": messages}
        yield Asked("/v1/messages", {"X-Claude-Code-Session-Id": tree}, body, agent)
        use = {"type": "tool_use", "id": f"{agent}{turn}", "name": "Bash", "input": {"command": words(agent, 3)}}
        result = {"type": "tool_result", "tool_use_id": f"{agent}{turn}", "content": words(f"{agent} {turn}", 40)}
        said += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]


def codex(tree: str, agent: str, turns: int) -> Iterator[Asked]:
    """OpenAI's Responses: everybody has the same instructions, and a task of its own."""
    items: list[dict[str, Any]] = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": words("developer", 200)}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": words(agent, 30)}]},
    ]
    for turn in range(turns):
        body = {"model": "m", "instructions": words("codex", 50), "tools": tools("exec"), "input": list(items)}
        yield Asked("/v1/responses", {"session-id": tree}, body, agent)
        call = {"type": "function_call", "id": f"i{turn}", "call_id": f"{agent}{turn}", "name": "exec"}
        items += [
            {**call, "arguments": words(f"{agent} {turn}", 3), "status": "completed"},
            {"type": "function_call_output", "call_id": f"{agent}{turn}", "output": words(f"out {agent} {turn}", 40)},
        ]


def opencode(tree: str, agent: str, turns: int) -> Iterator[Asked]:
    """OpenAI's Chat: the title of the conversation is asked for beside it, with the same id."""
    kind = agent.partition("-")[0]
    said: list[dict[str, Any]] = [{"role": "system", "content": words(f"system {kind}", 200)}]
    said.append({"role": "user", "content": words("task" if kind in ("main", "title") else agent, 30)})
    for turn in range(1 if kind == "title" else turns):
        body: dict[str, Any] = {"model": "m", "messages": list(said)}
        if kind != "title":
            body["tools"] = [{"type": "function", "function": tool} for tool in tools("bash", "task")]
        yield Asked("/v1/chat/completions", {"X-Session-ID": tree}, body, agent)
        call = {"id": f"{agent}{turn}", "type": "function", "function": {"name": "bash", "arguments": "{}"}}
        said.append({"role": "assistant", "content": words(f"{agent} {turn}", 5), "tool_calls": [call]})
        said.append({"role": "tool", "tool_call_id": call["id"], "content": words(f"out {agent} {turn}", 40)})


CLIENTS: list[Callable[[str, str, int], Iterator[Asked]]] = [claude, codex, opencode]


def tree(client: Callable[[str, str, int], Iterator[Asked]], name: str, seed: int) -> Iterator[Asked]:
    """The requests of a parent, of the sub-agents that it starts and of its title, as they come."""
    rng = Random(seed)
    going = [client(name, agent, 6) for agent in ("main", "title")]
    waiting = [client(name, f"sub-{number}", 3) for number in range(3)]
    while going:
        agent = rng.choice(going)
        if (asked := next(agent, None)) is None:
            going.remove(agent)
            continue
        yield asked
        if waiting and asked.agent == "main":
            going.append(waiting.pop())
