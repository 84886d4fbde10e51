"""Where an archive lies: a folder, or whatever else fsspec reaches, such as ``s3://bucket/folder``.

A file appears whole or not at all: an object store stores so, and in a folder it is written under another name first.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Final, Self, TypeVar

import fsspec
from anyio import to_thread
from fsspec.implementations.local import LocalFileSystem

from evsession.errors import ArchiveUnavailable, ConfigError

R = TypeVar("R")

PART: Final = ".part-"
"""What the name of a file that is being written has in it."""


class Target:
    """A folder of an fsspec file system.

    Its methods run in threads, since file systems wait. Any error of theirs becomes `ArchiveUnavailable`.
    """

    def __init__(self, files: fsspec.AbstractFileSystem, root: str) -> None:
        self._files = files
        self._root = PurePosixPath(root)
        self._is_local = isinstance(files, LocalFileSystem)

    def __repr__(self) -> str:
        return f"Target({self})"

    def __str__(self) -> str:
        return str(self._root) if self._is_local else f"{self._protocol}://{self._root}"

    @property
    def _protocol(self) -> str:
        protocol = self._files.protocol
        return protocol if isinstance(protocol, str) else protocol[0]

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the target that a path or URL names.

        Raises:
            ConfigError: no file system has that scheme, or its package is missing.
        """
        try:
            files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            msg = f"the archive's place {url} cannot be used ({error}); write a folder, or such as s3://bucket/folder"
            raise ConfigError(msg) from error
        return cls(files, root)

    async def put(self, name: str, data: bytes) -> None:
        """Store a file, whole or not at all.

        Raises:
            ArchiveUnavailable: it could not be stored.
        """
        await self._do("written", lambda: self._put(self._path(name), data))

    def _put(self, path: str, data: bytes) -> None:
        if not self._is_local:
            self._files.pipe_file(path, data)
            return
        self._files.makedirs(self._files._parent(path), exist_ok=True)
        part = f"{path}{PART}{secrets.token_hex(4)}"
        try:
            self._files.pipe_file(part, data)
            _sync(part)
            self._files.mv(part, path)
        except OSError:
            if self._files.exists(part):
                self._files.rm_file(part)
            raise
        _sync(self._files._parent(path))

    async def get(self, name: str) -> bytes | None:
        """Return what a file holds; None if there is none.

        Raises:
            ArchiveUnavailable: it could not be read.
        """
        return await self._do("read", lambda: self._get(self._path(name)))

    def _get(self, path: str) -> bytes | None:
        self._files.invalidate_cache()
        try:
            data: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            return None
        return data

    async def has(self, name: str) -> bool:
        """Tell whether a file is there.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        return await self._do("read", lambda: self._has(self._path(name)))

    def _has(self, path: str) -> bool:
        self._files.invalidate_cache()
        return bool(self._files.exists(path))

    async def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error.

        Raises:
            ArchiveUnavailable: it could not be removed.
        """
        await self._do("removed", lambda: self._remove(self._path(name)))

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(path)

    async def names(self, folder: str) -> list[str]:
        """Return the names of what lies in a folder, without the folder's; nothing if there is none.

        Raises:
            ArchiveUnavailable: it could not be read.
        """
        return await self._do("listed", lambda: self._names(self._path(folder)))

    def _names(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        if not self._files.isdir(folder):
            return []
        return [PurePosixPath(path).name for path in self._files.ls(folder, detail=False)]

    async def tidy(self, folder: str) -> None:
        """Remove what writers that were killed have left half-written.

        Raises:
            ArchiveUnavailable: the folder could not be read.
        """
        if self._is_local:
            await self._do("tidied", lambda: self._tidy(self._path(folder)))

    def _tidy(self, folder: str) -> None:
        if not self._files.isdir(folder):
            return
        for path in self._files.ls(folder, detail=False):
            if PART in path:
                self._files.rm_file(path)

    def _path(self, name: str) -> str:
        return str(self._root / name)

    async def _do(self, what: str, work: Callable[[], R]) -> R:
        try:
            return await to_thread.run_sync(work)
        except Exception as error:  # every file system has errors of its own
            raise ArchiveUnavailable(str(self), f"cannot be {what}: {error}") from error


def _sync(path: str) -> None:
    """Have the disk itself hold a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
