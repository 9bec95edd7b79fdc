"""Plotly figures that sit quietly in the page: no frame, no mode bar, both colour schemes.

Figures are plain dicts: building one costs nothing, and they serialise as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc

__all__ = ["ACCENT", "STILL", "area", "line"]

#: One green that reads on the light and on the dark panel.
ACCENT = "#1fa67a"
_TINT = "rgba(31, 166, 122, 0.10)"
_GRID = "rgba(128, 140, 144, 0.16)"
_TEXT = "#869196"

#: `config=` of a `dcc.Graph` that is looked at, not handled.
STILL: dcc.Graph.Config = {"displayModeBar": False, "staticPlot": True, "responsive": True}


def line(y: Sequence[float]) -> dict[str, Any]:
    """One line, on an axis that follows it."""
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "y": list(y),
                "line": {"color": ACCENT, "width": 2, "shape": "spline", "smoothing": 0.6},
            }
        ],
        "layout": {
            "margin": {"l": 44, "r": 8, "t": 8, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False,
            "font": {"family": "ui-sans-serif, system-ui, sans-serif", "size": 11, "color": _TEXT},
            "xaxis": {"visible": False},
            "yaxis": {
                "gridcolor": _GRID,
                "zeroline": False,
                "nticks": 5,
            },
        },
    }


def area(y: Sequence[float]) -> dict[str, Any]:
    """One line over a tinted ground, on an axis that begins at zero."""
    figure = line(y)
    figure["data"][0] |= {"fill": "tozeroy", "fillcolor": _TINT}
    figure["layout"]["yaxis"] |= {"rangemode": "tozero", "nticks": 3}
    return figure
