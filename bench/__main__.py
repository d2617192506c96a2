"""Runs every benchmark (or the ones named) and exits 1 when one missed its goal."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import bench


def main() -> int:
    names = sys.argv[1:] or sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    missed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        if importlib.import_module(f"bench.{name}").main() != 0:
            missed.append(name)
    print(f"\ngoals missed: {', '.join(missed)}" if missed else "\nall goals met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
