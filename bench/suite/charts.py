"""Line charts as SVG: a file that every browser and every Markdown page shows, and git can diff.

Both axes are logarithmic: from one connection to ten thousand, from microseconds to seconds.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 40, 50
"""Pixels around the plot, for the words."""
COLOURS = [
    "#0b7285", "#74b816", "#ae3ec9", "#1c7ed6", "#5f3dc4", "#e03131", "#e8590c", "#f08c00",
    "#868e96",
]  # fmt: skip

Points = Sequence[tuple[float, float]]


def lines(title: str, across: str, up: str, series: Mapping[str, Points]) -> str:
    """A chart with one line per series.

    Args:
        across: what the horizontal axis shows, with its unit.
        up: what the vertical axis shows, with its unit.
        series: by name, each with the colour of its place; only values above zero can be shown.

    Raises:
        ValueError: there is no value above zero.
    """
    colours = dict(zip(series, itertools.cycle(COLOURS), strict=False))
    shown = {name: [p for p in points if min(p) > 0] for name, points in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    horizontal = _Axis([x for points in shown.values() for x, _ in points], LEFT, WIDTH - RIGHT)
    vertical = _Axis([y for points in shown.values() for _, y in points], HEIGHT - BOTTOM, TOP)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(middle, 20, title, 'text-anchor="middle" font-weight="bold"'),
        _text(middle, HEIGHT - 10, across, 'text-anchor="middle"'),
        _text(LEFT - 60, TOP - 12, up, ""),
    ]
    for tick in horizontal.ticks:
        x = horizontal.at(tick)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM))
        parts.append(_text(x, HEIGHT - BOTTOM + 16, f"{tick:,g}", 'text-anchor="middle"'))
    for tick in vertical.ticks:
        y = vertical.at(tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 6, y + 4, f"{tick:,g}", 'text-anchor="end"'))
    for number, (name, points) in enumerate(shown.items()):
        colour = colours[name]
        places = [(horizontal.at(x), vertical.at(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (left, height) in zip(points, places, strict=True):
            said = f"<title>{escape(name)}: {x:,g}, {y:.3g}</title>"
            circle = f'<circle cx="{left:.1f}" cy="{height:.1f}" r="4" fill="{colour}">'
            parts.append(f"{circle}{said}</circle>")
        y = TOP + 10 + 18 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{y - 9}" width="10" height="10" '
                     f'fill="{colour}"/>')  # fmt: skip
        parts.append(_text(WIDTH - RIGHT + 30, y, name, ""))
    return "\n".join([*parts, "</svg>\n"])


class _Axis:
    """Where values stand, from the power of ten below them all to the one above."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.floor(math.log10(min(values)))
        self._high = max(self._low + 1, math.ceil(math.log10(max(values))))
        self._start, self._end = start, end
        self.ticks = [10.0**power for power in range(self._low, self._high + 1)]

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#dee2e6"/>'
