"""Opening and closing, and the facts that all workers share."""

from evsession.testing.conformance.opening import *  # noqa: F403
