"""Block ids for traces of lengths, where a call shares what its source says is kept, and for traces of token ids."""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import count

from agentcache.errors import InputError
from agentcache_workloads.readers.parts.build import Chains
from agentcache_workloads.readers.trace import Session

BLOCK = 64  # tokens a block id stands for


def lengths_as_blocks(sessions: Iterable[Session]) -> Iterator[Session]:
    """The sessions with prompts of enc `blocks`; the context that a call keeps ends with the output before it.

    Raises `InputError` for a call that keeps more than there is.
    """
    fresh = count(1)
    for session in sessions:
        contexts: list[tuple[int, ...]] = []  # whole blocks of prompt and output, by turn
        calls = []
        for call in session.calls:
            prefix = int(call.record["prompt"].get("prefix") or 0)
            kept = contexts[call.after][: prefix // BLOCK] if call.after is not None else ()
            if call.after is not None and len(kept) < prefix // BLOCK:
                raise InputError(
                    f"turn {call.turn} of session {session.sid!r} keeps {prefix} tokens, more than stand before it; "
                    "nothing was done"
                )
            missing = (call.in_tok + call.out_tok) // BLOCK - len(kept)
            contexts.append((*kept, *(next(fresh) for _ in range(missing))))
            items = contexts[-1][: call.in_tok // BLOCK]
            calls.append(dataclasses.replace(call, enc="blocks", items=items))
        yield dataclasses.replace(session, calls=tuple(calls))


def tokens_as_blocks(sessions: Iterable[Session]) -> Iterator[Session]:
    """The sessions with prompts of enc `blocks`, from token ids; raises `InputError` for prompts that are none."""
    chains = Chains()
    for session in sessions:
        calls = []
        for call in session.calls:
            if call.enc != "tokens" or not isinstance(call.items, tuple):
                raise InputError(
                    f"turn {call.turn} of session {session.sid!r} has a prompt of enc {call.enc!r}, expected 'tokens'; "
                    "nothing was done"
                )
            blocks = tuple(call.items[i : i + BLOCK] for i in range(0, len(call.items) - BLOCK + 1, BLOCK))
            calls.append(dataclasses.replace(call, enc="blocks", items=chains(blocks), in_tok=len(call.items)))
        yield dataclasses.replace(session, calls=tuple(calls))
