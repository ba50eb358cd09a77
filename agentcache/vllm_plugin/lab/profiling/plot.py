"""A plot of what a fit leaves: relative errors over measured step times, as SVG text."""

import math
from collections.abc import Sequence

from agentcache.cost.fit import Point

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 360, 64, 36, 16, 48


def residual_svg(points: Sequence[Point], title: str) -> str:
    """Relative error of each point over its measured time (log); points left out of the fit are filled."""
    low = math.floor(math.log10(min(p.measured_s for p in points)) * 2) / 2
    high = math.ceil(math.log10(max(p.measured_s for p in points)) * 2) / 2
    most = max(0.2, math.ceil(max(abs(p.error) for p in points) * 10) / 10)

    def x(seconds: float) -> float:
        return LEFT + (math.log10(seconds) - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT)

    def y(error: float) -> float:
        return TOP + (most - error) / (2 * most) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img">',
        f"<title>{_escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{_escape(title)}</text>',
    ]
    for error in (-most, -most / 2, -0.05, 0.0, 0.05, most / 2, most):
        dash = "" if error == 0 else ' stroke-dasharray="3 3"'
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(error):.1f}" y2="{y(error):.1f}" stroke="#999"{dash}/>'
        )
        if abs(error) != 0.05:
            parts.append(f'<text x="{LEFT - 8}" y="{y(error) + 4:.1f}" text-anchor="end">{error:+.0%}</text>')
    for half in range(int(low * 2), int(high * 2) + 1):
        seconds = 10 ** (half / 2)
        label = f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
        parts.append(f'<text x="{x(seconds):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    for point in points:
        fill = "#1f77b4" if point.held_out else "none"
        parts.append(
            f'<circle cx="{x(point.measured_s):.1f}" cy="{y(point.error):.1f}" r="3.5" fill="{fill}" stroke="#1f77b4"/>'
        )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 8}">measured step; up: predicted too long; filled: left out of the fit</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
