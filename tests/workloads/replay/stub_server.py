"""A small OpenAI-compatible server that streams, without a model behind it: for the client's side of a replay.

It says the forced tokens back, or counts up; `behave` decides what goes wrong. One connection is one task.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CARD = json.loads(os.environ.get("STUB_CARD", '{"id": "stub", "root": "/nowhere", "max_model_len": 100000}'))
METRICS = """# HELP vllm:cache_config_info
vllm:cache_config_info{block_size="32",num_gpu_blocks="401"} 1.0
vllm:prefix_cache_hits_total{engine="0"} 0.0
"""

Behaviour = Callable[[dict[str, Any], int], tuple[str, float]]
"""By body and number of the request: (what to do, seconds between tokens). To do: serve, 429, 500, drop, cut, wrong,
short, silent."""


def serve_all(body: dict[str, Any], number: int) -> tuple[str, float]:
    return "serve", 0.0


class StubServer:
    def __init__(self, behave: Behaviour = serve_all, metrics: str = METRICS, counted: str = "", key: str = "") -> None:
        self.behave = behave
        self.metrics = metrics
        self.counted = counted  # metrics that appear with the first request
        self.key = key  # asked for, if there is one
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.open = self.peak = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(first.split()[1], headers, raw, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, path: str, headers: dict[str, str], raw: bytes, writer: asyncio.StreamWriter) -> bool:
        if path == "/health":
            return await _whole(writer, 200, "")
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return await _whole(writer, 401, "{}")
        if path == "/v1/models":
            return await _whole(writer, 200, json.dumps({"data": [CARD]}))
        if path == "/metrics":
            return await _whole(writer, 200, self.metrics)
        if path != "/v1/completions":
            return await _whole(writer, 404, "{}")
        body = json.loads(raw)
        if not body.get("stream"):
            self.metrics, self.counted = self.metrics + self.counted, ""
            return await _whole(writer, 200, "{}")
        number = len(self.requests)
        self.requests.append((headers, body))
        what, gap_s = self.behave(body, number)
        if what.isdigit():
            return await _whole(writer, int(what), '{"error": "busy"}', "Retry-After: 0\r\n")
        if what == "drop":
            return False
        if what == "silent":
            await asyncio.sleep(60)
            return False
        return await self._stream(body, what, gap_s, writer)

    async def _stream(self, body: dict[str, Any], what: str, gap_s: float, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        count = body["max_tokens"] - (what == "short")
        forced = body.get("vllm_xargs", {}).get("forced_output", [7] * count)
        for index in range(count):
            if gap_s:
                await asyncio.sleep(gap_s)
            token = forced[index] + (what == "wrong")
            choice = {"text": "x", "token_ids": [token], "finish_reason": "length" if index == count - 1 else None}
            _event(writer, {"choices": [choice]})
            if what == "cut":
                writer.write(b"0\r\n\r\n")
                return True
        prompt = len(body["prompt"])
        usage = {"prompt_tokens": prompt, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 32}}
        _event(writer, {"choices": [], "usage": usage})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        return True


def _event(writer: asyncio.StreamWriter, value: Any) -> None:
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _whole(writer: asyncio.StreamWriter, status: int, text: str, more: str = "") -> bool:
    data = text.encode()
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data)
    await writer.drain()
    return True


@contextmanager
def running(stub: StubServer) -> Iterator[str]:
    """Serve from a thread of its own, on a free port of this machine; gives the URL."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(stub.handle, "127.0.0.1", 0, backlog=1024))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:

        async def end() -> None:
            server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _forever(port: int, metrics: str) -> None:
    server = await asyncio.start_server(StubServer(metrics=metrics).handle, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_forever(int(sys.argv[1]), METRICS + "".join(f"{line}\n" for line in sys.argv[2:])))
