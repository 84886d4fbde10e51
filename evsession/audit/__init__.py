"""The audit trail: what happened to sessions, as the log has it."""

from evsession.audit.entries import Entries
from evsession.audit.history import MAX_HISTORY, Audit, History

__all__ = ["MAX_HISTORY", "Audit", "Entries", "History"]
