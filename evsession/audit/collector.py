"""Python's collector of cycles, which must not look for any again and again while millions of records pass."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

RELAXED: Final = 100_000
"""Objects by which memory may grow before the collector looks through the newest.  Source: a page of 1,000 entries has
15,000, which are gone with it. By default, 700, it looks at each page while it is there, and then, because so much
survived, at all that there is: that took 40 % of the time (measured)."""

_usual: list[tuple[int, int, int]] = []


@contextmanager
def collector_relaxed() -> Iterator[None]:
    """Let the collector of cycles wait for more objects while any such block runs."""
    _usual.append(gc.get_threshold())
    first, *others = _usual[0]
    gc.set_threshold(max(first, RELAXED) if first else 0, *others)
    try:
        yield
    finally:
        outermost = _usual[0]
        _usual.pop()
        if not _usual:
            gc.set_threshold(*outermost)
