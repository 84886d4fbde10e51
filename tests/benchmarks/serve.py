"""Serve one peer with uvicorn on an inherited socket: `python -m tests.benchmarks.serve PEER URL DESCRIPTOR`.

Ends when its input does, so that it never outlives who started it.
"""

from __future__ import annotations

import logging
import socket
import sys
from threading import Thread
from typing import Final

import uvicorn

from tests.benchmarks.peers import PEERS

KEEP_ALIVE: Final = 3_600
"""Seconds that a connection may be idle: its turn comes after all other peers'."""


def main() -> None:
    """Serve until the input ends."""
    _, name, url, descriptor = sys.argv
    logging.disable(logging.WARNING)  # evsession warns of a server that keeps nothing on disk, which is meant here
    config = uvicorn.Config(
        PEERS[name](url).app, log_level="error", access_log=False, lifespan="on", timeout_keep_alive=KEEP_ALIVE
    )
    server = uvicorn.Server(config)
    Thread(target=_stop_with_input, args=(server,), daemon=True).start()
    with socket.socket(fileno=int(descriptor)) as listener:
        server.run(sockets=[listener])


def _stop_with_input(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
