"""What an OpenAI-compatible server says of itself: its models, its limits, its counters."""

import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from agentcache.errors import EngineError, InputError
from agentcache_workloads.replay.jobs.render import FIRST_TOKEN
from agentcache_workloads.replay.result import IDLE_TOTAL

LINE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = dict[str, str]

API_KEY = "OPENAI_API_KEY"

PROBE_TOKENS, PROBE_LOOKS, PROBE_S = 16, 5, 300.0
"""A first request, the looks for what it counted, and the time it may take: some servers compile then."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """One reading of `/metrics`; empty where the server has none."""

    samples: dict[str, list[tuple[Labels, float]]] = field(default_factory=dict)

    def total(self, name: str, **labels: str) -> float | None:
        """The sum over all samples of a name that have these labels; None where there is no such name."""
        found = self.samples.get(name)
        if found is None:
            return None
        return sum(value for theirs, value in found if labels.items() <= theirs.items())

    def label(self, name: str, label: str) -> str | None:
        """The value of a label on the first sample of a name that is not 0."""
        return next((theirs.get(label) for theirs, value in self.samples.get(name, []) if value), None)


def parse_metrics(text: str) -> Scrape:
    """Prometheus' text format; lines that are none of it are passed over."""
    samples: dict[str, list[tuple[Labels, float]]] = {}
    for line in text.splitlines():
        if match := LINE.fullmatch(line.strip()):
            name, labels, value = match.groups()
            try:
                sample = dict(LABEL.findall(labels or "")), float(value)
            except ValueError:
                continue
            samples.setdefault(name, []).append(sample)
    return Scrape(samples)


@dataclass(frozen=True, slots=True)
class Server:
    """A server as it described itself; None: it did not say."""

    model: str
    root: str | None
    max_tokens: int | None
    block_size: int | None
    cache_blocks: int | None
    policy: str | None
    stock: bool


def authorization() -> Labels:
    """The header with the key that the environment holds, if any, as the API's other clients send it."""
    key = os.environ.get(API_KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def ask(url: str, model: str | None = None) -> Server:
    """Ask for `/v1/models`, and for `/metrics` behind one short request.

    `cache_blocks` are the usable ones (vLLM keeps one for itself). `stock` is vLLM whose counters show neither
    AgentCache nor an offload tier. Raises `EngineError` where nobody answers, `InputError` for another model.
    """
    try:
        with httpx.Client(base_url=url, timeout=30.0, headers=authorization(), trust_env=False) as client:
            models = _models(client.get("/v1/models"), url)
            if not models or (model is not None and model not in models):
                raise InputError(
                    f"{url} serves {', '.join(models) or 'no model'}, {model or 'at least one'} was expected; "
                    "nothing was replayed"
                )
            card = models[model or next(iter(models))]
            scrape = _counted(client, str(card["id"]))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineError(
            f"no answer from {url}: {error!r}; nothing was replayed",
            hint="start a server there first, for example `agentcache serve`",
        ) from error
    blocks = scrape.label("vllm:cache_config_info", "num_gpu_blocks")
    size = scrape.label("vllm:cache_config_info", "block_size")
    policy = scrape.label("agentcache_policy_active", "policy")
    names = scrape.samples
    offload = any(name.startswith("vllm:kv_offload") for name in names)
    return Server(
        model=str(card["id"]),
        root=card.get("root") if isinstance(card.get("root"), str) else None,
        max_tokens=card.get("max_model_len") if isinstance(card.get("max_model_len"), int) else None,
        block_size=_whole(size),
        cache_blocks=None if (count := _whole(blocks)) is None else count - 1,
        policy=policy,
        stock=any(name.startswith("vllm:") for name in names)
        and not offload
        and not any(name.startswith("agentcache_") for name in names),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _counted(client: httpx.Client, model: str) -> Scrape:
    """The counters behind a first request: AgentCache's series appear with their first count, a moment after it.

    Without it a server of ours that has served nobody yet would look like stock vLLM.
    """
    body = {"model": model, "prompt": [FIRST_TOKEN] * PROBE_TOKENS, "max_tokens": 2, "temperature": 0.0}
    client.post("/v1/completions", json=body, timeout=PROBE_S)
    scrape = Scrape()
    for _ in range(PROBE_LOOKS):
        scrape = parse_metrics(_text(client.get("/metrics")))
        if not scrape.samples or any(name.startswith("agentcache_") for name in scrape.samples):
            break
        time.sleep(0.1)
    return scrape


def _models(response: httpx.Response, url: str) -> dict[str, dict[str, Any]]:
    """The cards of the models, by id."""
    try:
        response.raise_for_status()
        return {str(card["id"]): card for card in response.json()["data"]}
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{url}/v1/models answered {response.status_code} without a list of models; nothing was replayed",
            hint=f"the server's key is taken from {API_KEY}" if response.status_code in (401, 403) else None,
        ) from error


def _text(response: httpx.Response) -> str:
    return response.text if response.is_success else ""


@dataclass(frozen=True, slots=True)
class Grown:
    """What the server's counters grew by during a run; None where it does not count."""

    evictions: int | None
    preemptions: int | None
    cached_tokens: int | None
    cached_after_hole: int | None
    idle_token_s: float | None
    holes_mean: float | None


def grown(before: Scrape, after: Scrape) -> Grown:
    """The differences of two readings; a server that started anew in between gives none."""

    def of(name: str, **labels: str) -> float | None:
        new = after.total(name, **labels)
        old = before.total(name, **labels) or 0.0
        return None if new is None or new < old else new - old

    ours = any(name.startswith("agentcache_") for name in after.samples)

    def ours_or_none(name: str, **labels: str) -> float | None:
        """A counter of ours that has not counted yet is not there, and stands at 0."""
        value = of(name, **labels)
        return 0.0 if value is None and ours and name not in after.samples else value

    turns, holes = of("agentcache_holes_per_turn_count"), of("agentcache_holes_per_turn_sum")
    return Grown(
        evictions=_rounded(ours_or_none("agentcache_evicted_blocks_total", tier="gpu")),
        preemptions=_rounded(of("vllm:num_preemptions_total")),
        cached_tokens=_rounded(of("vllm:prefix_cache_hits_total")),
        cached_after_hole=_rounded(ours_or_none("agentcache_reused_tokens_total", place="after_hole")),
        idle_token_s=of(IDLE_TOTAL),
        holes_mean=holes / turns if turns and holes is not None else None,
    )


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
