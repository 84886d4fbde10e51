"""`python -m evsession.cli` is the command `evsession`."""

from evsession.cli import main

main()
