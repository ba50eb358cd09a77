"""The plots of a report: inline SVG that takes the page's colours, so that it is legible in light and dark.

Drawing is deterministic: no date, and ids from a fixed salt, so that equal results give equal pages.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentcache_workloads.report.summary import ReportRow

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


def latency_cdf(table: Sequence[ReportRow]) -> str | None:
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


def token_bars(table: Sequence[ReportRow]) -> str:
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


KINDS = {"first": "first turn", "after_tool": "after a tool", "after_user": "after the user"}
STATES = {
    "r": ("resident", "#2c6da0"),
    "s": ("resident, shared", "#23835f"),
    "h": ("hole or missing tail", "#d5652a"),
}
BAND, PIXELS = 10, 480  # of a context and of the time, in pixels of the picture


def ttft_bars(table: Sequence[ReportRow]) -> str | None:
    """Mean time to first token by what the turn follows, a bar a row, with a mark at p90; None where no row knows."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kinds = [kind for kind in KINDS if any(row.value(f"ttft_s.{kind}.mean") for row in table)]
    if not kinds:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 1.2 + len(kinds) * (0.35 + 0.17 * len(table))), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(table)
        drawn = []
        for index, row in enumerate(table):
            places = [place + (index - (len(table) - 1) / 2) * height for place in range(len(kinds))]
            means = [row.value(f"ttft_s.{kind}.mean") or 0.0 for kind in kinds]
            drawn.append(axes.barh(places, means, height=0.9 * height, color=LINES[index % len(LINES)]))
            marks = [
                (p90, place)
                for kind, place in zip(kinds, places, strict=True)
                if (p90 := row.value(f"ttft_s.{kind}.p90"))
            ]
            axes.plot([p90 for p90, _ in marks], [place for _, place in marks], "|", color=INK, markersize=7)
        axes.set_yticks(range(len(kinds)), [KINDS[kind] for kind in kinds])
        axes.invert_yaxis()
        axes.set(xlabel="time to first token, s: mean (bar), p90 (mark)")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _legend(figure, drawn, [row.label for row in table])
        return _svg(figure, "ttft", "Time to first token by what the turn follows, for each policy")


def residency_bands(table: Sequence[ReportRow]) -> str | None:
    """What of each context was in memory, over time: a band a context, head below; the first seed of each row."""
    from matplotlib import rc_context
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    watched = [(row, seen) for row in table if (seen := row.runs[0].get("residency")) and seen["contexts"]]
    if not watched:
        return None
    end_s = max(seen["times_s"][-1] for _, seen in watched)
    colours = ["#00000000", *(colour for _, colour in STATES.values())]
    with rc_context(STYLE):
        rows = max(len(seen["contexts"]) for _, seen in watched)
        figure = Figure(figsize=(9.4, 0.8 + len(watched) * (0.45 + 0.1 * rows)), layout="constrained")
        every = figure.subplots(len(watched), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (row, seen) in zip(every, watched, strict=True):
            picture = _bands(seen, end_s)
            axes.imshow(
                picture,
                cmap=ListedColormap(colours),
                vmin=0,
                vmax=len(STATES),
                aspect="auto",
                interpolation="nearest",
                extent=(0, end_s or 1, len(seen["contexts"]), 0),
            )
            axes.set_title(row.label, loc="left", fontsize=10)
            axes.set(ylabel="contexts", yticks=[])
        every[-1].set(xlabel="seconds")
        patches = [Patch(color=colour) for _, colour in STATES.values()]
        figure.legend(patches, [name for name, _ in STATES.values()], loc="outside upper left", ncols=3)
        return _svg(figure, "bands", "What of each context was in memory over time, for each policy")


def _bands(seen: Any, end_s: float) -> Any:
    """Codes of states, (contexts x BAND, PIXELS): 0 nothing, then as STATES lists them."""
    import numpy as np

    codes = {state: code for code, state in enumerate(STATES, 1)}
    picture = np.zeros((BAND * len(seen["contexts"]), PIXELS), dtype=np.uint8)
    # Each column shows the last look before it.
    at = np.searchsorted(seen["times_s"], np.arange(PIXELS) / PIXELS * (end_s or 1), side="right") - 1
    for place, context in enumerate(seen["contexts"]):
        runs = [_runs(text) for text in context["states"]]
        longest = max((sum(count for count, _ in known) for known in runs if known), default=1)
        columns = np.zeros((len(runs), BAND - 1), dtype=np.uint8)
        for column, known in zip(columns, runs, strict=True):
            blocks = np.repeat([codes[state] for _, state in known], [count for count, _ in known])
            if blocks.size:
                rows = np.arange(BAND - 1) * longest // (BAND - 1)
                inside = rows < blocks.size
                column[inside] = blocks[rows[inside]]
        shown = np.where(at >= 0, at, 0)
        picture[place * BAND : place * BAND + BAND - 1] = np.where(at >= 0, columns[shown].T[::-1], 0)
    return picture


def _runs(text: str | None) -> list[tuple[int, str]]:
    return [(int(count), state) for count, state in re.findall(r"(\d+)([a-z])", text or "")]


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
