#!/usr/bin/env python3
"""Buyers in a shop that runs elsewhere, driven by lines on standard input; answers are JSON, one object a line.

    python3 -m live.drive --url http://10.96.0.20 [--url ...] [--workers 8] [--seconds 600]

First it fills the shop and says {"filled": ...}. Each line that comes then ends a stretch: the answer says how many
calls the stretch had, how many of them failed (5xx, 429, a broken connection, no answer in time) and why, and how long
the slowest one took. Every call is repeated under its Idempotency-Key until its answer is definite. At the end of
input, or after --seconds, it compares what is stored with the answers and says {"audit": ...}; exit code 1 if they
differ.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import sys
import time

import aiohttp

from chaos.ledger import Ledger
from shop.client import Client

# How often one read is repeated, and the pause before.
REPEATS_MAX = 50
PAUSE_SECONDS = 0.1
# How long the last calls may take.
LAST_CALLS_SECONDS = 120.0


class Stretch:
    """The outcomes of the calls since the last line, and when those that are under way began."""

    def __init__(self, under_way=None):
        self.calls = 0
        self.failed = collections.Counter()
        self.slowest = 0.0
        self.under_way = {} if under_way is None else under_way
        self.begun = time.monotonic()

    def told(self):
        """What came of the stretch so far. A call that is still under way counts as long as it has taken."""
        now = time.monotonic()
        slowest = max([self.slowest, *(now - begun for begun in self.under_way.values())])
        return {
            "calls": self.calls,
            "failed": sum(self.failed.values()),
            "of": dict(self.failed),
            "slowest_ms": round(slowest * 1000),
            "seconds": round(now - self.begun, 1),
        }


class Counted(Client):
    """A client whose every attempt is counted."""

    def __init__(self, url, stretches, **options):
        super().__init__(url, **options)
        self.stretches = stretches

    async def call(self, method, path, **options):
        begun = time.monotonic()
        how = None
        call = object()
        self.stretches[-1].under_way[call] = begun
        try:
            reply = await super().call(method, path, **options)
            if reply.status >= 500 or reply.status == 429:
                how = f"{reply.status} {reply.reason}"
            return reply
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            how = type(error).__name__
            raise
        finally:
            stretch = self.stretches[-1]
            del stretch.under_way[call]
            stretch.calls += 1
            stretch.slowest = max(stretch.slowest, time.monotonic() - begun)
            if how:
                stretch.failed[how] += 1


class Patient(Client):
    """A client that repeats a read whose connection is refused or breaks. The buyers run on the node itself. While no
    bridge is there, each connection that they try leaves an entry in the node's connection tracking, for two minutes
    and without a translated address; a later connection from the same port finds that entry and is refused."""

    def __init__(self, url, **options):
        super().__init__(url, **options)
        self.repeated = 0

    async def call(self, method, path, **options):
        for _ in range(REPEATS_MAX):
            try:
                return await super().call(method, path, **options)
            except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
                if method != "GET":
                    raise
                self.repeated += 1
                await asyncio.sleep(PAUSE_SECONDS)
        return await super().call(method, path, **options)


def say(**what):
    print(json.dumps(what), flush=True)


async def lines():
    """Standard input, line by line."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


async def tell(stretches):
    async for name in lines():
        say(stretch=name, **stretches[-1].told())
        stretches.append(Stretch(stretches[-1].under_way))


async def drive(options, stretches, ledger, quiet):
    """Buys until it is told to stop, then compares. `quiet` is the client that fills and reads; its calls are not
    counted."""
    over = asyncio.Event()
    # One connection for each buyer, so that none is idle. If a stopping server closes an idle connection just when it
    # is used again, only the client can handle that, as docs/rest.md says.
    clients = [
        Counted(url, stretches, connections=options.workers, timeout_seconds=40.0) for url in options.url
    ]
    await ledger.fill(quiet)
    say(filled=options.orders)
    stretches.append(Stretch())
    async with contextlib.AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
        work = [
            asyncio.create_task(ledger.work(client, over, options.workers, seed)) for seed, client in enumerate(clients)
        ]
        try:
            async with asyncio.timeout(options.seconds):
                await tell(stretches)
        except TimeoutError:
            pass
        over.set()
        # Calls that are under way may be repeated until they are answered, but not for ever.
        async with asyncio.timeout(LAST_CALLS_SECONDS):
            await asyncio.gather(*work)
    last = stretches[-1].told()
    settled = await ledger.audit(quiet, options.settle_seconds)
    counts = {"orders": len(ledger.lines), "sold": len(ledger.sold), "repeated_reads": quiet.repeated, "last": last}
    say(audit="clean", **counts, settled_seconds=round(settled, 1))


async def main(options):
    async with Patient(options.url[0], timeout_seconds=300.0) as quiet:
        try:
            await drive(options, [Stretch()], Ledger(orders=options.orders), quiet)
        except (AssertionError, aiohttp.ClientError, OSError, TimeoutError) as error:
            say(audit="failed", problem=f"{type(error).__name__}: {error}")
            return 1
    return 0


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", action="append", required=True, help="a bridge; may be repeated for several")
    parser.add_argument("--workers", type=int, default=8, help="buyers at each bridge")
    parser.add_argument("--orders", type=int, default=2000, help="to begin with")
    parser.add_argument("--seconds", type=float, default=600.0, help="longest time under load")
    parser.add_argument("--settle-seconds", type=float, default=30.0, help="for holds that a crash left behind")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(_arguments())))
