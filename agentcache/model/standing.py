"""Standing: why the context that a block belongs to is idle."""

from enum import Enum


class Standing(Enum):
    """Why the context that a block belongs to is idle: all that a policy may know about its return."""

    UNKNOWN = "unknown"  # no turn of it has finished yet: aborted or preempted work, or nobody's block
    TOOL = "tool"  # its last turn asked for a tool: expected back
    END_TURN = "end_turn"  # its last turn answered the user: may come back
    ENDED = "ended"  # its job is known to have ended: not expected back
    SUPERSEDED = "superseded"  # its last turn rewrote history and no longer contains this block


LIVELIEST = (Standing.TOOL, Standing.END_TURN, Standing.UNKNOWN, Standing.SUPERSEDED, Standing.ENDED)
"""Several contexts may share a block: it stands as well as the liveliest of them."""

OVER = (Standing.SUPERSEDED, Standing.ENDED)
"""How blocks stand that nobody is expected back for."""

RANK = {standing: rank for rank, standing in enumerate(LIVELIEST)}
