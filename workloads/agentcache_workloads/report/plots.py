"""The plots of a report: inline SVG that takes the page's colours, so that it is legible in light and dark.

Drawing is deterministic: no date, and ids from a fixed salt, so that equal results give equal pages.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentcache_workloads.report.summary import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"
"""Drawn where the page's text colour belongs; becomes `currentColor`."""
LINES = ("#8a8f98", "#2f7fb8", "#d5652a", "#1f9e77", "#b8629b", "#c99a1d")  # the first is stock vLLM's
DASHES = ("--", "-", "-", "-", "-.", ":")
PARTS = {
    "computed": ("computed_tokens", "#b5532a"),
    "cached, behind a hole": ("cached_tokens_after_hole", "#23835f"),
    "cached prefix": ("cached_tokens", "#2c6da0"),
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agentcache",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.18,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}


def latency_cdf(table: Sequence[Row]) -> str | None:
    """Cumulative distribution of job latency, one line a row; None where no row has latencies."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = [(row, row.latencies_s) for row in table if row.latencies_s]
    if not drawn:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.0 + 0.17 * len(drawn)), layout="constrained")
        axes = figure.subplots()
        lines = [
            axes.ecdf(
                latencies_s,
                color=LINES[index % len(LINES)],
                linestyle=DASHES[index % len(DASHES)],
                linewidth=1.8,
            )
            for index, (_, latencies_s) in enumerate(drawn)
        ]
        axes.set(xlabel="job latency, seconds", ylabel="fraction of jobs", ylim=(0, 1.02))
        axes.set_xlim(left=0)
        axes.grid()
        _legend(figure, lines, [row.label for row, _ in drawn])
        return _svg(figure, "cdf", "Cumulative distribution of job latency for each policy")


def token_bars(table: Sequence[Row]) -> str:
    """Prompt tokens computed and found in the cache, in thousands (median over seeds), one stacked bar a row."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    parts = {name: [(row.value(path) or 0) / 1e3 for row in table] for name, (path, _) in PARTS.items()}
    # `cached_tokens` counts what is cached anywhere; the bar's last part is the rest of it.
    pairs = zip(parts["cached prefix"], parts["cached, behind a hole"], strict=True)
    parts["cached prefix"] = [max(0.0, cached - behind) for cached, behind in pairs]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, max(3.4, 1.4 + 0.45 * len(table))), layout="constrained")
        axes = figure.subplots()
        left = [0.0] * len(table)
        labels = [row.label.replace(" (", "\n(") for row in table]
        drawn = []
        for name, widths in parts.items():
            bars = axes.barh(range(len(table)), widths, left=left, height=0.62, color=PARTS[name][1])
            drawn.append(bars)
            left = [start + width for start, width in zip(left, widths, strict=True)]
            _write_shares(axes, bars, widths, parts)
        axes.set_yticks(range(len(table)), labels)
        axes.invert_yaxis()
        axes.set(xlabel="prompt tokens, thousands")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _legend(figure, drawn, list(parts))
        return _svg(figure, "tokens", "Prompt tokens computed and cached for each policy")


def _write_shares(axes: Any, bars: Any, widths: list[float], parts: dict[str, list[float]]) -> None:
    totals = [sum(column) for column in zip(*parts.values(), strict=True)]
    widest = max(totals, default=0)
    texts = [
        f"{width / total:.0%}" if total and width > 0.08 * widest else ""
        for width, total in zip(widths, totals, strict=True)
    ]
    axes.bar_label(bars, texts, label_type="center", color="white")


def _legend(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    # Above the axes, where no line of a distribution can run under it; two long labels do not fit side by side.
    columns = 2 if max(map(len, labels)) <= 24 else 1
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.6)


def _svg(figure: "Figure", name: str, description: str) -> str:
    """The figure as an `<svg>` element whose ids start with `name`: several share one page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1).strip()
