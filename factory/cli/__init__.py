"""The `factory` command. Each command is a few lines on `factory.client` or `factory.local`."""

from factory.cli.app import main

__all__ = ["main"]
