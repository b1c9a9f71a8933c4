"""Benchmark of the gateway against its originals and the limits: all sides in one run, taking turns, by medians.

Read the ratios: machines differ and are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import archive
import blocks
import pipe
import transform
from programs import HERE

SUITES: dict[str, ModuleType] = {"archive": archive, "blocks": blocks, "pipe": pipe, "transform": transform}
WORKLOADS = {name: suite for suite, module in SUITES.items() for name in module.WORKLOADS}
SIDES = list(dict.fromkeys(side for module in SUITES.values() for side in module.SIDES))


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 101), metavar="N")
    offered = "; ".join(f"{suite}: {', '.join(module.WORKLOADS)}" for suite, module in SUITES.items())
    parser.add_argument("--only", type=names, default=list(SUITES), help=f"of these, with commas between ({offered})")
    parser.add_argument("--sides", type=names, default=SIDES, help=f"of {','.join(SIDES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result goes, else below bench/out/")
    chosen = parser.parse_args()
    for given, known in ((chosen.only, SUITES.keys() | WORKLOADS.keys()), (chosen.sides, set(SIDES))):
        if unknown := set(given) - known:
            parser.error(f"there is no {', '.join(sorted(unknown))}")
    return chosen


def main() -> None:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    machine = {"cores": len(os.sched_getaffinity(0)), "platform": platform.platform(), "load_before": os.getloadavg()}
    result: dict[str, Any] = {"when": when, "machine": machine, "workloads": {}}
    for suite, module in SUITES.items():
        wanted = [name for name in module.WORKLOADS if {name, suite} & set(chosen.only)]
        if wanted:
            for name, found, table in module.results(wanted, chosen.sides, chosen.rounds):
                result["workloads"][name] = found
                print(table, flush=True)
    target = chosen.json or HERE / "out" / f"{when}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{target}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
