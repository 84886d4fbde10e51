"""Promise 1 and 3 of a store: commits are atomic, checked first, appended in order, and happen once."""

from evsession.testing.conformance.commit import *  # noqa: F403
