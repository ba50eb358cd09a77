"""One call over HTTP: sent, streamed, timed token by token, and tried again while it has brought nothing."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from agentcache_workloads.replay.engines.http.lanes import Lanes
from agentcache_workloads.replay.engines.http.sse import Events
from agentcache_workloads.replay.result import CallRecord, Client

BACKOFF_S = 0.5  # doubled with each attempt
LATER = (429, 502, 503, 504)
"""Answers of a server that may do better in a moment."""


class StreamChoice(msgspec.Struct):
    text: str | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None


class Chunk(msgspec.Struct):
    """One event of a completion's stream; what else servers put there is not read."""

    choices: list[StreamChoice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Chunk).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request, and what its answer must be: so many tokens, these if they are `forced`."""

    body: dict[str, Any]
    headers: dict[str, str]
    tokens: int
    forced: list[int] | None


async def make(
    wanted: Wanted, lanes: Lanes, record: CallRecord, client: Client, retries: int, now: Callable[[], float]
) -> None:
    """Make the call and fill in its record; what went wrong for good stands in `record.error`.

    Only calls without a token yet are tried again, after 0.5 s, 1 s, ... or what the server asks for; the times of a
    record run from when the call was due, so that attempts count.
    """
    content = _encode(wanted.body)
    record.sent_s = now()
    client.send_lag_s.append(record.sent_s - record.arrived_s)
    while True:
        wait_s = BACKOFF_S * 2**record.retries
        record.error = None
        try:
            async with (
                lanes.lane() as http,
                http.stream("POST", "/v1/completions", content=content, headers=wanted.headers) as response,
            ):
                if response.status_code == 200:
                    await _read(response, wanted, record, client, now)
                    return
                record.error = f"HTTP {response.status_code}: {(await response.aread())[:300].decode(errors='replace')}"
                if response.status_code not in LATER:
                    return
                client.busy += 1
                wait_s = _asked(response.headers.get("retry-after"), wait_s)
        except httpx.TimeoutException as error:
            client.timeouts += 1
            record.error = f"timed out: {type(error).__name__}"
        except httpx.TransportError as error:
            client.refused += 1
            record.error = f"{type(error).__name__}: {error}"
        if record.first_token_s is not None or record.retries >= retries:
            return
        record.retries += 1
        client.retries += 1
        await asyncio.sleep(wait_s)


def _asked(header: str | None, otherwise: float) -> float:
    """The seconds of a Retry-After; dates are not understood."""
    return float(header) if header and header.isascii() and header.isdigit() else otherwise


async def _read(
    response: httpx.Response, wanted: Wanted, record: CallRecord, client: Client, now: Callable[[], float]
) -> None:
    events, said, usage, last, finish = Events(), [], None, None, None
    texts = 0
    async for piece in response.aiter_raw():
        at = now()
        for data in events.feed(piece):
            if data == b"[DONE]":
                continue
            client.events += 1
            try:
                chunk = _decode(data)
            except (msgspec.DecodeError, msgspec.ValidationError):
                record.error = f"an event that is no completion: {data[:200]!r}"
                return
            if chunk.error is not None:
                record.error = f"the server reported {chunk.error!r}"
                return
            usage = chunk.usage or usage
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            new = choice.token_ids or []
            # Text may be empty: a token that is no whole character yet, or a server without a tokenizer.
            count = len(new) or 1
            said += new
            texts += count
            finish = choice.finish_reason or finish
            if last is None:
                record.first_token_s = at
                record.gaps_s = []
            else:
                # Tokens of one event came together: each has its part of the time.
                record.gaps_s += [(at - last) / count] * count
            last = at
    record.finished_s = last
    _count(usage, record)
    tokens = usage.completion_tokens if usage is not None else texts
    if finish is None or last is None:
        record.error = "the stream ended before the answer did"
    elif wanted.forced is not None and said != wanted.forced:
        record.error = (
            f"ended ({finish}) with other tokens than the forced ones; the server must be started with "
            "--logits-processors agentcache_workloads.replay.engines.vllm.forced:ForcedOutput"
        )
    elif tokens != wanted.tokens:
        record.error = f"ended ({finish}) after {tokens} tokens, {wanted.tokens} were asked for"


def _count(usage: Usage | None, record: CallRecord) -> None:
    """What the server said of the prompt, if it did."""
    details = usage.prompt_tokens_details if usage else None
    cached = details.cached_tokens if details else None
    record.cached_tokens, record.cached_known = cached or 0, cached is not None
    if usage is not None:
        record.prompt_tokens = usage.prompt_tokens or record.prompt_tokens


def monotonic(start: float) -> Callable[[], float]:
    """Seconds since `start`, on the clock that the calls are timed by."""
    return lambda: time.perf_counter() - start
