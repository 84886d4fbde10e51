"""The feed: one message for each commit, in the order of the log, to every worker that follows the shard."""

from evsession.testing.conformance.feed import *  # noqa: F403
