"""A child process with an engine that breaks in the middle of its answers, behind the wire of a real replica.

It prints the address at which it takes calls, and lives until its standard input ends.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse

from agentcache.service.replicas.asgi import Message, answer
from agentcache.service.replicas.wire import Out, listen
from agentcache.service.routing.call import Head, Plan, RoutedCall

BLOCK = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half "}}
TEXT = {"type": "output_text", "text": "", "annotations": []}
ITEM = {"id": "i", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
AT = {"item_id": "i", "output_index": 0, "content_index": 0}
RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "in_progress", "output": []}
RESPONSE |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
USAGE = {"input_tokens": 1, "output_tokens": 1}
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": USAGE}


def chunk(content: str | None, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


EVENTS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [chunk("half "), chunk("half"), chunk(None, "stop")],
    "/v1/completions": [
        {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [{"index": 0, "text": "half "}]}
    ]
    * 3,
    "/v1/messages": [
        {"type": "message_start", "message": {**MESSAGE, "stop_reason": None, "stop_sequence": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        BLOCK,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE},
        {"type": "message_stop"},
    ],
    "/v1/responses": [
        {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
        {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": ITEM},
        {"type": "response.content_part.added", "sequence_number": 2, **AT, "part": TEXT},
        {"type": "response.output_text.delta", "sequence_number": 3, **AT, "delta": "half ", "logprobs": []},
        {
            "type": "response.completed",
            "sequence_number": 4,
            "response": {
                **RESPONSE,
                "status": "completed",
                "output": [{**ITEM, "content": [{**TEXT, "text": "half "}]}],
            },
        },
    ],
}
"""What an engine streams: the whole of it ends well."""


def framed(event: dict[str, Any]) -> bytes:
    kind = f"event: {event['type']}\n" if "type" in event else ""
    return f"{kind}data: {json.dumps(event)}\n\n".encode()


class Breaking:
    """An engine behind a wire, for which the name of the model says how it breaks."""

    def __init__(self) -> None:
        self.app = Starlette()
        self.app.add_route("/{path:path}", self.speak, methods=["GET", "POST"])

    async def speak(self, request: Request) -> StreamingResponse:
        asked = await request.json()
        events = [framed(event) for event in EVENTS[request.url.path]]

        async def pieces() -> AsyncIterator[bytes]:
            for event in events[: -1 if asked["model"] != "whole" else None]:
                yield event
                await asyncio.sleep(0.01)
            if asked["model"] == "fails":
                raise RuntimeError("the engine is dead")
            if asked["model"] == "within":
                yield events[-1][:-9]
                await asyncio.sleep(0.01)
                raise RuntimeError("the engine is dead")
            if asked["model"] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if "completions" in request.url.path:
                yield b"data: [DONE]\n\n"

        async def halves() -> AsyncIterator[bytes]:
            yield b'{"id": "c", "choices": ['
            await asyncio.sleep(0.01)
            raise RuntimeError("the engine is dead")

        if not asked.get("stream"):
            length = {"content-length": "100"} if asked["model"] == "measured" else None
            return StreamingResponse(halves(), headers=length, media_type="application/json")
        return StreamingResponse(pieces(), media_type="text/event-stream; charset=utf-8")

    async def serve(self, call: RoutedCall, plan: Plan, out: Out) -> None:
        head: Head | None = None

        async def send(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = Head(message["status"], tuple(message["headers"]), "r1")
            elif head:
                await out(Head(head.status, head.headers, head.replica, message["body"]))
                head = None
            else:
                await out(message["body"])

        await answer(self.app, call, send)


async def main() -> None:
    _, address = await listen(Breaking().serve, "127.0.0.1")
    print(json.dumps(asdict(address)), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
