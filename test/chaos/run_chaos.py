#!/usr/bin/env python3
"""The whole matrix of faults over real processes: `python3 -m chaos.run_chaos` in test/.

Prints a table; the exit code is 1 when any cell failed. `--json FILE` keeps all counts."""

import argparse
import asyncio
import dataclasses
import json
import pathlib
import sys
import tempfile
import time

from chaos.matrix import cells, run_cell
from chaos.race import LOADS
from shop.process import Shop


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2, help="of every role but dev-kv (2)")
    parser.add_argument("--only", default="", help="cells whose `fault role` contains this")
    parser.add_argument("--seed", type=int, default=0, help="of the load")
    parser.add_argument("--load", choices=LOADS, default="mixed", help="what the clients do (mixed)")
    parser.add_argument("--workers", type=int, default=20, help="clients at once (20)")
    parser.add_argument("--json", type=pathlib.Path, help="file for all counts")
    return parser.parse_args()


async def main():
    asked = arguments()
    results, failed = [], 0
    print(f"{'fault':<18} {'role':<12} {'result':<7} {'done':>6} {'recovered':>10} {'settled':>8}  troubles seen")
    with tempfile.TemporaryDirectory(prefix="till-chaos-") as directory:
        shop = Shop(pathlib.Path(directory) / "data", asked.replicas)
        await asyncio.to_thread(shop.start)
        try:
            for fault, role, act in cells():
                if asked.only not in f"{fault} {role}":
                    continue
                begun = time.monotonic()
                try:
                    cell = await run_cell(
                        shop, fault, role, act, f"{asked.seed}-{asked.load}", asked.workers, LOADS[asked.load]()
                    )
                except Exception as error:  # noqa: BLE001 - a cell that fails must not hide the others
                    failed += 1
                    print(f"{fault:<18} {role:<12} FAILED  {error!r}", flush=True)
                    results.append({"fault": fault, "role": role, "failed": repr(error)})
                    continue
                done = cell.answers.get("done", 0)
                seen = ", ".join(f"{count} {what}" for what, count in sorted(cell.trouble.items())) or "none"
                print(
                    f"{fault:<18} {role:<12} {'ok':<7} {done:>6} {cell.recovered_seconds:>8.1f} s"
                    f" {cell.settled_seconds:>6.1f} s  {seen}",
                    flush=True,
                )
                results.append({**dataclasses.asdict(cell), "took_seconds": round(time.monotonic() - begun, 1)})
            errors = shop.errors()
            if errors:
                failed += 1
                print("errors in the log:", *errors[:20], sep="\n")
        finally:
            await asyncio.to_thread(shop.stop)
    if asked.json:
        asked.json.write_text(json.dumps({"replicas": asked.replicas, "load": asked.load, "cells": results}, indent=1) + "\n")
    passed = sum("failed" not in result for result in results)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
