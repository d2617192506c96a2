"""Runs every benchmark (or the ones named) and exits 1 when one missed its goal. Options after a name are that one's."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import sys

import bench


def main() -> int:
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    sys.argv[1:] = sys.argv[1 + len(named) :]
    names = named or sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    missed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        if importlib.import_module(f"bench.{name}").main() != 0:
            missed.append(name)
    print(f"\ngoals missed: {', '.join(missed)}" if missed else "\nall goals met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
