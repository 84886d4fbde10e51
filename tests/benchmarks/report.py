"""The page docs/reference/performance.md, written from one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.benchmarks.figures import BARE, OURS, Series, Spread
from tests.benchmarks.hotspots import Hotspot
from tests.benchmarks.results import Results, targets

PLOT = "performance.svg"

INTRODUCTION = f"""\
# Performance

This page and its plot are written by `make bench`, which runs everything below on the machine at hand. Nothing here was
typed by hand, so run it on yours.

*Overhead* is the time of a request minus that of the same request on bare Starlette, measured in the same round.
Every round measures all peers in short blocks, one after the other in a turning order; a figure is the median of all
rounds, with the least and the greatest in brackets. Machines are noisy, so ratios count and not microseconds: a ratio
is taken within a round, and is evsession's overhead as a multiple of the peer's. On a busy machine the extremes say
more of the machine than of the libraries.

Each answer is checked, each peer runs on the same server with its defaults, and each keeps the same six values in a
session, of which the cookie is the only one sent. starsessions loads by itself (its autoload middleware), because the
handlers use `request.session` as everywhere else. The limit study is the shortest cached read that can be written by
hand: a scan of the headers, a digest, two dicts and a copy.

![What each library adds to a request]({PLOT})
"""

CLOSING = """\
## What the figures are not

- The client, the applications and the Redis server share one machine, so a round trip costs no network. A slower
  network costs every peer for each round trip; the cached read has none.
- Bare Starlette stands for an application: what a handler does comes on top, and makes every ratio of whole requests
  smaller than these.
- "Write, 100 concurrent" has 100 sessions, one write each, all at once, in one worker.
"""


def write_page(results: Results) -> str:
    """Return the page."""
    return "\n".join(
        [
            INTRODUCTION,
            "## Measured on\n",
            f"- {results.machine}\n- {results.versions}\n- {results.server}, over loopback TCP\n"
            f"- {results.rounds} rounds in process\n",
            "## Targets\n",
            *_targets(results),
            "\n## In process\n",
            "The ASGI applications called directly, without sockets; microseconds a request.\n",
            *_times(results.in_process),
            "\n## Over uvicorn\n",
            "Each peer in its own process under uvicorn with h11, one client for all; microseconds a request.\n",
            *_times(results.over_http),
            "\n## Round trips\n",
            "Counted on the wire, by a proxy between the library and the server; a request.\n",
            *_trips(results),
            "\n## Memory\n",
            "What `used_memory` grows by for each session, everything included: snapshot, log, index, keys. Sessions\n"
            "of six values, signed in, with the default context (route, method, worker, truncated address).\n",
            *_memory(results),
            "\n## Where the microseconds go\n",
            "evsession alone under cProfile, which makes calls dearer than they are: read the order, not the size.\n",
            *_hotspots(results),
            CLOSING,
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _targets(results: Results) -> Iterator[str]:
    rows = [
        (target.what, f"≤ {target.limit:g}{target.unit}", f"{target.figure:.3g}{target.unit}",
         "yes" if target.is_reached else "**no**")
        for target in targets(results)
    ]  # fmt: skip
    yield from _table(("target", "limit", "median of this run", "reached"), rows)


def _times(all_: Sequence[Series]) -> Iterator[str]:
    for series in all_:
        yield f"### {series.case.capitalize()}\n"
        rows = [_row(series, peer) for peer in series.times]
        yield from _table(("", "overhead, µs", "evsession ÷ this"), rows)
        yield ""


def _row(series: Series, peer: str) -> tuple[str, str, str]:
    if peer == BARE:
        return f"{peer} (the time itself)", _text(series.time(peer), 1), ""
    ratio = "" if peer == OURS else _text(series.ratio(OURS, peer), 3)
    return f"**{peer}**" if peer == OURS else peer, _text(series.overhead(peer), 1), ratio


def _text(spread: Spread, digits: int) -> str:
    return f"{spread.middle:.{digits}f} ({spread.least:.{digits}f} … {spread.greatest:.{digits}f})"


def _trips(results: Results) -> Iterator[str]:
    peers = list(next(iter(results.trips.values())))
    rows = [(case, *(f"{trips[peer]:g}" for peer in peers)) for case, trips in results.trips.items()]
    yield from _table(("", *peers), rows)


def _memory(results: Results) -> Iterator[str]:
    rows = [(one.server, str(one.events), f"{one.bytes:,.0f}") for one in results.memory]
    yield from _table(("server", "events", "bytes a session"), rows)


def _hotspots(results: Results) -> Iterator[str]:
    for case, spots in results.hotspots.items():
        yield f"### {case.capitalize()}\n"
        yield from _table(("function", "calls a request", "share"), [_spot(spot) for spot in spots])
        yield ""


def _spot(spot: Hotspot) -> tuple[str, str, str]:
    return f"`{spot.function}`", f"{spot.calls:.1f}", f"{spot.share:.1%}"
