"""The command `agentcache tune`: the tile shapes of the attention kernels for this GPU."""

from agentcache.errors import ConfigError


def tune() -> None:
    """Time the attention kernels' tile shapes on this GPU and keep the fastest; serving itself never tunes.

    Exit codes: 0 written, 2 there is no GPU.
    """
    from agentcache_kernels.errors import ArgumentError
    from agentcache_kernels.tune import tune as make_table

    try:
        path = make_table(print)
    except ArgumentError as error:
        raise ConfigError(str(error), hint="run it on the machine that will serve") from error
    print(f"written: {path}")
