"""The audit trail: what happened to sessions, as the log has it."""

from evsession.audit.entries import Entries
from evsession.audit.explain import Explanation
from evsession.audit.follow import Follower
from evsession.audit.history import MAX_HISTORY, History
from evsession.audit.report import Report, Trimmed
from evsession.audit.trail import Audit
from evsession.audit.travel import Difference, PastState, SessionState
from evsession.audit.visits import Visit

__all__ = [
    "MAX_HISTORY",
    "Audit",
    "Difference",
    "Entries",
    "Explanation",
    "Follower",
    "History",
    "PastState",
    "Report",
    "SessionState",
    "Trimmed",
    "Visit",
]
