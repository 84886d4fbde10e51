"""Reading the log: from a position, along one session's links, and what trimming leaves."""

from evsession.testing.conformance.log import *  # noqa: F403
