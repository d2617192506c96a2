"""The command line of the fuzzing: how many cases of what, and a table of how they ended. Exit 1 when there are findings."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as the tests have it


def main() -> int:
    from . import runner

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="in all, or of the one target")
    parser.add_argument("--target", choices=sorted(runner.TARGETS), help="only this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="only the case of this number, in this process")
    parser.add_argument("--processes", type=int, default=(os.cpu_count() or 1) + 1)
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.only is not None:
        if arguments.target is None:
            parser.error("--only needs --target")
        report = runner.run_here(
            arguments.target, range(arguments.only, arguments.only + 1), seed=arguments.seed, limits=True
        )  # fmt: skip
        reports = {arguments.target: report}
        for finding in report.findings:
            print(finding.what)
    else:
        counts = {arguments.target: arguments.cases} if arguments.target else runner.share(arguments.cases)
        reports = runner.run(counts, seed=arguments.seed, processes=arguments.processes, tell=_tell)
    print(f"\n{'target':13} {'cases':>9} {'us/case':>8} {'slowest':>8} {'peak MiB':>8} {'findings':>8}  ends")
    for name, report in reports.items():
        ends = ", ".join(f"{end} {count}" for end, count in report.ends.most_common(6))
        print(
            f"{name:13} {report.cases:9,} {report.seconds / max(1, report.cases) * 1e6:8.0f} {report.slowest[0]:7.3f}s "
            f"{report.peak:8} {len(report.findings):8}  {ends}"
        )
    cases, findings = sum(r.cases for r in reports.values()), sum(len(r.findings) for r in reports.values())
    print(f"{cases:,} cases, {findings} findings, {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    return 1 if findings else 0


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
