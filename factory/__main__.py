"""`python -m factory`: the `factory` command, wherever its script lies."""

from factory.cli import main

main()
