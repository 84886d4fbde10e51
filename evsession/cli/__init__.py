"""The command line. Only `main` is here, so that without the extra `cli` it can still say what is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line; without typer and rich, say in one line how to get them."""
    if missing := [name for name in ("typer", "rich") if find_spec(name) is None]:
        sys.exit(f"the evsession command needs {' and '.join(missing)}; pip install 'evsession[cli]'")
    try:
        from evsession.cli.app import app

        app()
    except KeyboardInterrupt:  # while it is still loading; each command deals with its own
        sys.exit(130)
