"""What `evsession demo` runs: an embedded server, two workers of the example shop, and their end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import FrameType
from typing import IO, Final, NoReturn

import httpx
from rich.console import Console
from rich.panel import Panel

from evsession.cli.story import Report, table_of, tell
from evsession.cli.visit import Shop
from evsession.stores.embedded import EmbeddedServer

WORKERS: Final = 2
READY_WITHIN: Final = 30.0
"""Seconds that a worker may take to answer.  Source: it takes 1 s here; a cold file system takes longer."""

GONE_WITHIN: Final = 12.0
"""Seconds after which a worker that does not end is killed: a little more than it gives itself."""

HERE: Final = Path(__file__).parent


class DemoFailed(Exception):
    """The demo could not start; the text names the way out."""


def show(port: int = 0) -> int:
    """Run the shop until Ctrl-C; return the exit code."""
    console = Console(highlight=False)
    try:
        with running_shop(port, sys.stderr) as running:
            console.print(_welcome(running.workers))
            while all(worker.process.poll() is None for worker in running.workers):
                time.sleep(0.2)
    except KeyboardInterrupt:
        console.print("stopped")
        return 0
    console.print("a worker ended by itself; what it said stands above")
    return 1


def _welcome(workers: Sequence[Worker]) -> Panel:
    addresses = "\n".join(f"  worker {n}   [bold]{worker.address}/shop[/bold]" for n, worker in enumerate(workers, 1))
    hint = (
        "Log in, fill the cart, open the other worker: one session, read from its memory.\n"
        "Log in from a private window too, then sign out everywhere: both pages are told.\n"
        "Ctrl-C stops everything."
    )
    return Panel(f"{addresses}\n\n{hint}", title="evsession demo", expand=False, padding=(1, 2))


def check(*, as_json: bool = False, port: int = 0) -> int:
    """Play the story through HTTP and print each step; return 0 only if all of it held."""
    console = Console(highlight=False, stderr=as_json)
    if not console.is_terminal:
        console = Console(highlight=False, stderr=as_json, width=118)
    with TemporaryFile("a+") as log:
        try:
            report = _played(port, log)
        except DemoFailed:
            _show_log(console, log)
            raise
        for table in table_of(report):
            console.print(table)
        if not report.held:
            _show_log(console, log)
    if as_json:
        print(json.dumps(report.plain(), indent=2, ensure_ascii=False))
    return 0 if report.held else 1


def _played(port: int, log: IO[str]) -> Report:
    with running_shop(port, log) as running:
        addresses = tuple(worker.address for worker in running.workers)
        return asyncio.run(tell(Shop(addresses, f"unix://{running.server.socket}", running.server.secret_key)))


def _show_log(console: Console, log: IO[str]) -> None:
    log.seek(0)
    console.print("what the workers said:", log.read() or "nothing", markup=False)


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that serves the shop."""

    address: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End the process: at first by closing its input, as it would see if this process died."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(GONE_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True, slots=True)
class Running:
    """What the demo runs: the server, and the workers in the order of their numbers."""

    server: EmbeddedServer
    workers: Sequence[Worker]


@contextmanager
def running_shop(port: int, log: IO[str]) -> Iterator[Running]:
    """Run an embedded server in a directory of its own and the workers on it; all are gone afterwards.

    Raises:
        DemoFailed: a port is taken, or a worker does not answer.
        ConfigError: the embedded server cannot be started.
    """
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="evsession-demo-")))
        server = EmbeddedServer(directory)
        stack.callback(server.stop)
        sockets = [stack.enter_context(_listening(port and port + n)) for n in range(WORKERS)]
        addresses = ["http://{}:{}".format(*one.getsockname()) for one in sockets]
        workers = []
        for number, listening in enumerate(sockets, 1):
            process = _start(number, listening, addresses, directory, log)
            workers.append(Worker(addresses[number - 1], process))
            stack.callback(workers[-1].stop)
            listening.close()  # the worker has it now; without the worker nobody answers there
        for worker in workers:
            _wait_until_ready(worker)
        yield Running(server, workers)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that it cleans up."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listening(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        msg = f"port {port} cannot be used ({error.strerror}); choose another --port, or leave it out"
        raise DemoFailed(msg) from error
    listening.listen(128)
    return listening


def _start(
    number: int, listening: socket.socket, addresses: Sequence[str], directory: Path, log: IO[str]
) -> subprocess.Popen[bytes]:
    settings = {
        "EVSESSION_URL": f"embedded://{directory}",
        "SHOP_WORKER": str(number),
        "SHOP_ADDRESSES": " ".join(addresses),
        "PYTHONUNBUFFERED": "1",
    }
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("EVSESSION_")}
    return subprocess.Popen(
        [sys.executable, "-m", "evsession.cli.serve", str(example("shop.py")), str(listening.fileno())],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=[listening.fileno()],
        env=theirs | settings,
        start_new_session=True,  # Ctrl-C is for the demo alone, which then ends its workers in order
    )


def example(name: str) -> Path:
    """Return where an example stands: within the installed package, or beside it in a source tree."""
    shipped = HERE / "examples" / name
    return shipped if shipped.exists() else HERE.parent.parent / "examples" / name


def _wait_until_ready(worker: Worker) -> None:
    """Ask until a worker answers; a request that comes early waits in its socket's queue."""
    give_up_at = time.monotonic() + READY_WITHIN
    while time.monotonic() < give_up_at and worker.process.poll() is None:
        try:
            if httpx.get(f"{worker.address}/whoami", timeout=1, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    msg = f"the worker at {worker.address} does not answer; what it said stands above"
    raise DemoFailed(msg)
