"""How long a client is asked to wait for a store that is away."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

RETRY_AFTER: Final = timedelta(seconds=1)
"""Source: two probes of the breaker at its default."""
