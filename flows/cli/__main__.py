"""`python -m flows.cli` is `cift`."""

from flows.cli import main

main()
