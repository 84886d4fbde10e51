"""OCSF 1.8: logins and logouts as Authentication (3002), everything else as Entity Management (3004).

Source: https://schema.ocsf.io/1.8.0, whose required attributes and constraints the tests check.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from evsession.events import Actor
from evsession.export.record import Record

SCHEMA: Final = "1.8.0"
IAM: Final = 3
"""The category Identity & Access Management."""

AUTHENTICATION: Final = 3002
ENTITY_MANAGEMENT: Final = 3004

_CLASSES: Final = {AUTHENTICATION: "Authentication", ENTITY_MANAGEMENT: "Entity Management"}
_USER_TYPES: Final = {"user": 1, "admin": 2, "system": 3, "service": 4}
_IMPERSONATE: Final = 2


class _Activity(NamedTuple):
    class_uid: int
    id: int
    name: str


LOGON: Final = _Activity(AUTHENTICATION, 1, "Logon")
LOGOFF: Final = _Activity(AUTHENTICATION, 2, "Logoff")
SWITCH: Final = _Activity(AUTHENTICATION, 7, "Account Switch")
CREATE: Final = _Activity(ENTITY_MANAGEMENT, 1, "Create")
UPDATE: Final = _Activity(ENTITY_MANAGEMENT, 3, "Update")
DELETE: Final = _Activity(ENTITY_MANAGEMENT, 4, "Delete")

_SEVERITIES: Final = {"Informational": 1, "Medium": 3, "High": 4}


def activity_of(record: Record) -> _Activity:
    """Return the class and activity of an event.

    Authentication needs a user, so the end of an anonymous session is the deletion of an entity. An admin who signs in
    as somebody else switches accounts.
    """
    match record.type:
        case "authenticated":
            return SWITCH if _is_impersonation(record) else LOGON
        case "ended":
            return DELETE if record.user_id is None else LOGOFF
        case "created":
            return CREATE
        case "named_revoked":
            return DELETE
        case _:
            return UPDATE


def _is_impersonation(record: Record) -> bool:
    actor = record.actor
    return actor is not None and actor.kind == "admin" and actor.id != record.user_id


def ocsf_of(record: Record, application: str, version: str) -> dict[str, Any]:
    """Return the OCSF event of a record; `application` is its service's name, `version` that of evsession."""
    activity, severity = activity_of(record), _severity(record)
    event = {
        "category_uid": IAM,
        "category_name": "Identity & Access Management",
        "class_uid": activity.class_uid,
        "class_name": _CLASSES[activity.class_uid],
        "activity_id": activity.id,
        "activity_name": activity.name,
        "type_uid": activity.class_uid * 100 + activity.id,
        "type_name": f"{_CLASSES[activity.class_uid]}: {activity.name}",
        "severity": severity,
        "severity_id": _SEVERITIES[severity],
        "status": "Success",
        "status_id": 1,
        "time": record.milliseconds,
        "message": _message(record),
        "metadata": _metadata(record, application, version),
        "actor": _actor(record, application),
        **_where(record),
    }
    specific = _authentication if activity.class_uid == AUTHENTICATION else _entity_management
    return event | specific(record, application)


def _severity(record: Record) -> str:
    if record.cause == "token_reused":
        return "High"
    return "Medium" if record.type == "named_revoked" or _is_impersonation(record) else "Informational"


def _message(record: Record) -> str:
    who = record.name or (f"user {record.user_id}" if record.user_id is not None else "an anonymous visitor")
    what = f"{record.type.replace('_', ' ')} ({record.cause})" if record.cause else record.type.replace("_", " ")
    return f"{what}: {who}" + (f", because: {record.reason}" if record.reason else "")


def _metadata(record: Record, application: str, version: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": SCHEMA,
        "product": {"name": "evsession", "vendor_name": "evsession", "version": version},
        "uid": f"{record.shard}:{record.id}",
        "event_code": record.type,
        "log_name": application,
    }
    if record.version is not None:
        found["sequence"] = record.version
    if record.owasp is not None:
        found["labels"] = [f"owasp:{record.owasp[0]}"]
    return found


def _actor(record: Record, application: str) -> dict[str, Any]:
    """Return who did it: somebody named, or else the session's user, or else nobody but the application."""
    actor = record.actor or (None if record.user_id is None else Actor.user(record.user_id))
    if actor is None:
        return {"app_name": application}
    return {"app_name": application, "user": _user(actor.id, actor.kind)}


def _user(id_: str, kind: str = "user") -> dict[str, Any]:
    return {"uid": id_, "type": kind.capitalize(), "type_id": _USER_TYPES[kind]}


def _where(record: Record) -> dict[str, Any]:
    """Return the address and the request, as far as the audit policy has them logged."""
    context, found = record.context, dict[str, Any]()
    if address := context.get("address"):
        found["src_endpoint"] = {"ip": str(address)}
    if (route := context.get("route")) and (method := context.get("method")):
        found["http_request"] = {"http_method": str(method), "url": {"path": str(route)}}
    return found | {"unmapped": _unmapped(record)}


def _unmapped(record: Record) -> dict[str, Any]:
    context = {key: value for key, value in record.context.items() if key not in ("address", "route", "method")}
    found = {
        "context": context,
        "facts": record.facts,
        "cause": record.cause,
        "reason": record.reason,
    }
    return {key: value for key, value in found.items() if value}


def _authentication(record: Record, application: str) -> dict[str, Any]:
    session: dict[str, Any] = {"uid": record.session_id, "issuer": application, "is_remote": True}
    found: dict[str, Any] = {
        "user": _user(record.user_id or ""),
        "service": {"name": application},
        "session": session,
        "is_remote": True,
    }
    if record.type == "ended":
        session["expiration_reason"] = record.cause
        found["status_detail"] = "LOGOFF_USER_INITIATED" if record.cause == "logout" else "LOGOFF_OTHER"
    else:
        found["is_new_logon"] = True
    if _is_impersonation(record):
        found |= {"account_switch_type": "Impersonate", "account_switch_type_id": _IMPERSONATE}
    return found


def _entity_management(record: Record, application: str) -> dict[str, Any]:
    """Return the session, or all of a name, as the managed entity; what was changed in it as its data."""
    entity: dict[str, Any] = {"type": "Session", "type_id": 99, "uid": record.session_id or record.name}
    if record.name is not None:
        entity |= {"type": "Sessions", "name": record.name}
    if record.version is not None:
        entity["version"] = str(record.version)
    if record.set or record.unset:
        entity["data"] = {"set": record.set, "unset": record.unset}
    found: dict[str, Any] = {"entity": entity}
    if record.reason:
        found["comment"] = record.reason
    return found
