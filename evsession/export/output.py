"""What an export writes into: lines to a stream or file, or a Parquet file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final, Literal, Protocol

from evsession.canonical import dumps
from evsession.errors import ConfigError
from evsession.export.ocsf import ocsf_of
from evsession.export.record import Record, json_of

Format = Literal["jsonl", "ocsf", "parquet"]

_BLOCK: Final = 65_536


class Output(Protocol):
    """Takes events one after the other."""

    def add(self, record: Record) -> None:
        """Write an event."""

    def flush(self) -> None:
        """Have all events out that were added."""


class _Lines:
    def __init__(self, file: IO[bytes], form: Callable[[Record], object]) -> None:
        self._file = file
        self._form = form
        self.flush = file.flush

    def add(self, record: Record) -> None:
        self._file.write(dumps(self._form(record)) + b"\n")


@contextmanager
def opened(format_: Format, out: Path | None, application: str, *, is_appended: bool) -> Iterator[Output]:
    """Open an output; without a path, standard output. A Parquet file gets its name once it is complete.

    Raises:
        ConfigError: a Parquet file without a name, or without pyarrow.
        OSError: it cannot be written.
    """
    if format_ == "parquet":
        with _parquet(out, is_appended=is_appended) as output:
            yield output
    else:
        form = json_of if format_ == "jsonl" else _ocsf_form(application)
        with _stream(out, "ab" if is_appended else "wb") as file:
            yield _Lines(file, form)
            file.flush()


@contextmanager
def _stream(out: Path | None, mode: Literal["ab", "wb"]) -> Iterator[IO[bytes]]:
    if out is None:
        yield sys.stdout.buffer
        return
    if mode == "ab" and out.is_file():
        _cut_half_a_line(out)
    with out.open(mode) as file:
        yield file


def _cut_half_a_line(out: Path) -> None:
    """Remove what a full disk has left of a line; its event comes again, as it was never counted as written."""
    with out.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = file.seek(max(0, end - _BLOCK))
            if (newline := file.read(end - begin).rfind(b"\n")) >= 0:
                file.truncate(begin + newline + 1)
                return
            end = begin
        file.truncate(0)


@contextmanager
def _parquet(out: Path | None, *, is_appended: bool) -> Iterator[Output]:
    if out is None:
        msg = "a Parquet file is read from its end, so it needs a name; pass --out audit.parquet"
        raise ConfigError(msg)
    if find_spec("pyarrow") is None:
        msg = "a Parquet file needs pyarrow; pip install 'evsession[parquet]'"
        raise ConfigError(msg)
    if is_appended and out.exists():
        msg = f"{out} holds what was exported before, and nothing can be added to a Parquet file; name another --out"
        raise ConfigError(msg)
    from evsession.export.parquet import ParquetFile

    part = out.with_name(f"{out.name}.part")
    try:
        with ParquetFile(part) as file:
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _ocsf_form(application: str) -> Callable[[Record], object]:
    try:
        own = version("evsession")
    except PackageNotFoundError:
        own = "0"
    return lambda record: ocsf_of(record, application, own)
