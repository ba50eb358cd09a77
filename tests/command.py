"""The command `agentcache` as users run it, in a process of its own: that of this checkout, whatever is on the PATH."""

import sys

MAIN = "from agentcache.cli.main import main; main()"
AGENTCACHE = [sys.executable, "-c", MAIN]
