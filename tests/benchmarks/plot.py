"""The plot beside the page: what each library adds to a request, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.benchmarks.figures import LIMIT, OURS, SDK, SIGNED, STARSESSIONS
from tests.benchmarks.results import Results

COLOURS: Final = {LIMIT: "#bbbbbb", SIGNED: "#7f9ec4", STARSESSIONS: "#d9a05b", SDK: "#b5655f", OURS: "#2a7f4f"}


def draw(results: Results, path: Path) -> None:
    """Write the plot as SVG, the same bytes for the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "evsession"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    cases = [series.case for series in results.in_process]
    for place, peer in enumerate(COLOURS):
        _bars(axes, results, peer, (place - (len(COLOURS) - 1) / 2) * 0.16)
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("microseconds added to a request on bare Starlette, in process; median of all rounds (log scale)")
    figure.legend(loc="outside upper center", ncols=len(COLOURS), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axes: Any, results: Results, peer: str, offset: float) -> None:
    taking = [(row, series) for row, series in enumerate(results.in_process) if peer in series.times]
    widths = [max(series.overhead(peer).middle, 0.1) for _, series in taking]
    bars = axes.barh([row + offset for row, _ in taking], widths, height=0.15, color=COLOURS[peer], label=peer)
    axes.bar_label(bars, [f"{width:.0f}" if width >= 10 else f"{width:.1f}" for width in widths], padding=3, fontsize=7)
