"""Requests that alone get stock prefix caching, in an engine that reuses behind holes."""

from agentcache.vllm_plugin.compat import Request

REQUEST_REASONS = ("prompt_logprobs", "pooling", "multimodal", "prompt_embeds", "resumable", "skips_cache")


def stock_only(request: Request) -> str | None:
    """Why this request alone gets stock prefix caching: one of `REQUEST_REASONS`, or None where holes may be reused."""
    params = request.sampling_params
    if params is not None and params.prompt_logprobs is not None:
        return "prompt_logprobs"  # wanted of every position, also of those behind a hole
    if request.pooling_params is not None:
        return "pooling"
    if request.mm_features:
        return "multimodal"  # encoder outputs are scheduled for rows without holes
    if request.prompt_embeds is not None:
        return "prompt_embeds"  # copied by the row
    if request.resumable:
        return "resumable"  # its prompt grows while it runs
    return "skips_cache" if request.skip_reading_prefix_cache else None
