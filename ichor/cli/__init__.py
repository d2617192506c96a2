"""The commands of Ichor (docs/contract.md). Parses, wires and prints; the work is done in the rooms."""

from ichor.cli.commands import main

__all__ = ["main"]
