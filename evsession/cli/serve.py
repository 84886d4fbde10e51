"""One worker of the demo: `python -m evsession.cli.serve EXAMPLE DESCRIPTOR` serves an example on an open socket.

It ends when its standard input does, which is when the demo that started it is gone, however that went.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Final

import uvicorn

from evsession.errors import ConfigError

LONGEST_GOODBYE: Final = 10
"""Seconds that a worker may take to end before the system ends it.  Source: requests and Redis have 1 s each."""


def main() -> None:
    """Serve until standard input ends or a signal comes."""
    path, descriptor = sys.argv[1:]
    app = load(Path(path)).app
    config = uvicorn.Config(app, lifespan="on", log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=int(descriptor))])


def load(path: Path) -> ModuleType:
    """Return an example as a module, by its path.

    Raises:
        ConfigError: there is none.
    """
    spec = spec_from_file_location(f"evsession_example_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        msg = f"there is no example at {path}; reinstall evsession"
        raise ConfigError(msg)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _end_with_parent(server: uvicorn.Server) -> None:
    # os.read, because a daemon thread that waits inside sys.stdin would hold its lock when the interpreter ends.
    while os.read(0, 4096):
        pass
    signal.alarm(LONGEST_GOODBYE)
    server.should_exit = True


if __name__ == "__main__":
    main()
