"""Owners for tests of policies alone, as a tree of chains would have them."""

from agentcache.model import Context, Owners
from agentcache.residency.tree import OwnersTree


def owned(*contexts: Context) -> Owners:
    """The owners of a block that these contexts have, in a tree of its own."""
    tree = OwnersTree()
    for context in contexts:
        tree.move(context, ("block", context.id))
    return tree.at["block"]
