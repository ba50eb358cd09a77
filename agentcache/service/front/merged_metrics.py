"""One page of metrics out of many: those of every replica, each series with the replica's name."""

from collections.abc import Mapping


def merged(pages: Mapping[str, str]) -> str:
    """Prometheus text of all replicas, by replica: families stand together, and their comments once."""
    comments: dict[str, dict[str, None]] = {}
    series: dict[str, list[str]] = {}
    for replica, page in pages.items():
        family = ""
        for line in page.splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2] if line.count(" ") > 1 else family
                comments.setdefault(family, {})[line] = None
            elif line:
                series.setdefault(family, []).append(_labelled(line, replica))
    return "\n".join(line for family in series for line in (*comments.get(family, ()), *series[family])) + "\n"


def _labelled(line: str, replica: str) -> str:
    """A sample's line with the label `replica`."""
    name, brace, rest = line.partition("{")
    if brace:
        return (
            f'{name}{{replica="{replica}",{rest}' if not rest.startswith("}") else f'{name}{{replica="{replica}"{rest}'
        )
    name, _, value = line.partition(" ")
    return f'{name}{{replica="{replica}"}} {value}'


def waiting(seconds: Mapping[str, float]) -> str:
    """The autoscaling signal, by replica: expected prefill seconds of requests without a first token."""
    name = "agentcache_waiting_rebuild_seconds"
    head = f"# HELP {name} Expected rebuild seconds of requests that have no first token yet.\n# TYPE {name} gauge\n"
    return head + "".join(f'{name}{{replica="{replica}"}} {value:.6g}\n' for replica, value in seconds.items())
