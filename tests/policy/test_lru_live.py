"""vLLM's order, but for what is over."""

from agentcache.model import BlocksRestood, Standing
from agentcache.policy import make_policy
from tests.policy.conformance import COST
from tests.policy.published.test_lru import chain, order, release, two_turns_that_share


def test_it_is_lru_while_nothing_is_over() -> None:
    policy = make_policy("lru-live", COST, 16)
    two_turns_that_share(policy)
    assert order(policy) == [3, 2, 20, 11, 10, 1, 0]


def test_what_is_over_goes_first_whenever_that_is_heard() -> None:
    policy = make_policy("lru-live", COST, 16)
    waits, ended, reopened = chain(0, 2), chain(10, 2), chain(20, 2)
    for block in reopened:
        block.standing = Standing.ENDED
    for number, blocks in enumerate((waits, ended, reopened), 1):
        release(policy, number, blocks)
    for block, standing in ((ended[0], Standing.ENDED), (ended[1], Standing.SUPERSEDED), (reopened[0], Standing.TOOL)):
        block.standing = standing
    policy.observe(BlocksRestood((*ended, reopened[0])), 4.0)
    policy.check()
    victims = policy.victims(2, {ended[0]}, 5.0)
    assert victims == [ended[1], reopened[1]]
    assert order(policy) == [10, 1, 0, 20]
