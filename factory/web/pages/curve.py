"""A few numbers as a line: the points of an SVG polyline."""

from collections.abc import Sequence

WIDTH, HEIGHT = 240.0, 48.0  # of the drawing, in its units
MARGIN = 2.0  # above and below the line, so that it is not cut


def line(points: Sequence[tuple[float, float]], low: float | None = None) -> str:
    """(x, y) points, x rising, as "x,y x,y …" in WIDTH by HEIGHT; the largest y is at the top.
    `low` is the y at the bottom; by default the smallest one. Empty for fewer than two points."""
    if len(points) < 2:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, bottom = xs[0], min(ys) if low is None else low
    wide, high = xs[-1] - left or 1, max(ys) - bottom or 1
    room = HEIGHT - 2 * MARGIN
    return " ".join(
        f"{WIDTH * (x - left) / wide:.1f},{HEIGHT - MARGIN - room * (y - bottom) / high:.1f}"
        for x, y in points
    )
