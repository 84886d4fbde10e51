"""Archiving the log: files of events, chained and signed, written and verified before anything is trimmed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from evsession.errors import ConfigError

if TYPE_CHECKING:
    from evsession.archive.reader import Archive
    from evsession.store import Store

NEEDS: Final = ("fsspec", "zstandard", "cryptography")
"""What the extra ``archive`` brings."""


def require() -> None:
    """Raise unless the extra ``archive`` is installed.

    Raises:
        ConfigError: it is not.
    """
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        msg = f"an archive needs {', '.join(missing)}; pip install 'evsession[archive]'"
        raise ConfigError(msg)


def open_archive(url: str, namespace: str, store: Store | None = None) -> Archive:
    """Return the archive of a namespace in a folder or at a URL of fsspec; nothing is read yet.

    Give a reader's `store` as well, so that a place without what was archived is not taken for an empty archive.

    Raises:
        ConfigError: the extra ``archive`` is missing, or no file system has that scheme.
    """
    require()
    from evsession.archive.reader import Archive

    return Archive.at(url, namespace, store)
