"""The plot is well-formed, shows every point, and tells those left out of the fit."""

import xml.etree.ElementTree as ET

from agentcache.cost.fit import Point
from agentcache.vllm_plugin.lab.profiling.plot import residual_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_every_point_is_inside_and_the_held_out_are_filled() -> None:
    points = [Point(0.01 * n, 0.01 * n * (1 + 0.02 * (n % 5 - 2)), n % 5 == 0) for n in range(1, 40)]
    root = ET.fromstring(residual_svg(points, "a <model> & more"))
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == len(points)
    assert sum(circle.get("fill") != "none" for circle in circles) == sum(point.held_out for point in points)
    assert all(0 <= float(c.get("cx", -1)) <= 760 and 0 <= float(c.get("cy", -1)) <= 360 for c in circles)
    assert root.findtext(f"{SVG}title") == "a <model> & more"


def test_one_point_is_a_plot() -> None:
    assert "circle" in residual_svg([Point(1.0, 3.0, True)], "one")
