"""Awaiting several things at once: what became of each, and which error is told."""

from __future__ import annotations

import anyio.lowlevel
import pytest

from evsession import Unsupported
from evsession.audit.together import settled, together


async def late(outcome: int | Exception) -> int:
    """Return this, or raise it, after the others have begun."""
    await anyio.lowlevel.checkpoint()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.mark.parametrize("error", [Unsupported("this", "do that"), OSError("the disk is full")])
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_error_is_raised_as_it_is(error: Exception) -> None:
    """And not in a group; of one and of several."""
    for others in ((), (1, 2)):
        with pytest.raises(type(error)) as caught:
            await together(late(one) for one in (*others, error))
        assert caught.value is error


async def test_each_outcome_stands_in_its_place() -> None:
    """An error of evsession too, for whoever can go on with the others."""
    error = Unsupported("this", "do that")
    assert await together(late(one) for one in range(3)) == [0, 1, 2]
    assert await settled(late(one) for one in (1, error, 3)) == [1, error, 3]
    assert await settled(()) == []
