"""Commits made by hand; see `evsession.testing.conformance.builder`."""

from evsession.testing.conformance.builder import *  # noqa: F403
