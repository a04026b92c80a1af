"""Faults, and how a shop fares under each: a cell of the matrix is one fault on one role."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
import urllib.request

from chaos.ledger import Ledger
from chaos.proxy import Proxy
from shop.client import Client
from shop.process import binary

ROLES = ["http-bridge", "coordinator", "order", "stock", "payment", "dev-kv"]

# Every time-out inside is shorter: votes have 2 s, attempts 5 s.
FROZEN_SECONDS = 7.0
# A vote lasts two seconds before others may resolve its transaction; then they must.
SETTLE_SECONDS = 20.0
ANSWER_SECONDS = 90.0


@dataclasses.dataclass
class Cell:
    """The result of one fault."""

    fault: str
    role: str
    answers: dict
    trouble: dict
    # From the end of the fault until no client waits for more than a second or sees an error.
    recovered_seconds: float
    settled_seconds: float


async def kill(shop, role):
    await asyncio.to_thread(shop.kill, next(iter(shop.children(role))))


async def freeze(shop, role):
    child = next(iter(shop.children(role).values()))
    os.kill(child["pid"], signal.SIGSTOP)
    try:
        await asyncio.sleep(FROZEN_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child["pid"], signal.SIGCONT)


async def kill_all(shop, _):
    await asyncio.to_thread(shop.kill_everything)
    await asyncio.to_thread(shop.start)


def store_fault(*rules, seconds=3.0):
    """dev-kv misbehaves for a while."""

    async def misbehave(shop, _):
        for rule in rules:
            await asyncio.to_thread(_administer, shop, "POST", "faults", rule)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(_administer, shop, "DELETE", "faults")

    return misbehave


def administered(path, body):
    """Sends one command to dev-kv's administration, and waits for its effect."""

    async def order(shop, _):
        await asyncio.to_thread(_administer, shop, "POST", path, body)
        await asyncio.sleep(3.0)

    return order


def _administer(shop, method, path, body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{shop.ports.kv}/dev-kv/v1/{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


async def nothing(_shop, _):
    await asyncio.sleep(3.0)


STORE_FAULTS = {
    "replies lost": store_fault(
        {"rpc": "KvPrewrite", "probability": 0.2, "fault": {"kind": "lose_reply"}},
        {"rpc": "KvCommit", "probability": 0.2, "fault": {"kind": "lose_reply"}},
    ),
    "writes land late": store_fault(
        {"rpc": "KvPrewrite", "probability": 0.2, "fault": {"kind": "land_late", "delay": {"uniform": [50, 1500]}}}
    ),
    "slow": store_fault({"fault": {"kind": "latency", "delay": {"exponential": 20}}}),
    "leader moved": store_fault({"probability": 0.2, "fault": {"kind": "not_leader", "name_leader": True}}),
    "regions split": store_fault({"probability": 0.2, "count": 12, "fault": {"kind": "split"}}),
    "busy": store_fault({"probability": 0.2, "fault": {"kind": "server_is_busy"}}),
    "stale commands": store_fault({"probability": 0.2, "fault": {"kind": "stale_command"}}),
    "refuses": store_fault({"fault": {"kind": "refuse"}, "for_ms": 3000}),
    "timestamps stop": administered("freeze-tso", {"for_ms": 3000}),
    "clock ahead": administered("jump-clock", {"by_ms": 60_000}),
    "clock back": administered("jump-clock", {"by_ms": -5_000}),
}


def cells():
    """The whole matrix, as (fault, role, what to do)."""
    for role in ROLES:
        yield "kill -9", role, kill
    for role in ROLES:
        yield "frozen", role, freeze
    yield "kill -9", "all at once", kill_all
    for name, fault in STORE_FAULTS.items():
        yield name, "dev-kv", fault
    yield "repeats and cuts", "proxy", nothing


async def run_cell(shop, fault, role, act, seed=0, workers=20, ledger=None):
    """Works on a shop while the fault strikes, waits until every client has its answer, and audits."""
    ledger = ledger or Ledger()
    # Idempotency keys are drawn from it; the shop still remembers those of other cells.
    seed = f"{seed}-{fault}-{role}"
    async with Client(shop.url) as client:
        await ledger.fill(client)
    proxy = Proxy(shop.ports.http, seed) if role == "proxy" else None
    async with proxy or contextlib.nullcontext():
        # The client talks to the last bridge, faults strike the first replica.
        async with Client(proxy.url if proxy else shop.urls[-1], timeout_seconds=40.0) as client:
            over = asyncio.Event()
            work = asyncio.create_task(ledger.work(client, over, workers, seed))
            await asyncio.sleep(1.0)
            await act(shop, role)
            ended = time.monotonic()
            await asyncio.sleep(2.0)
            over.set()
            try:
                await asyncio.wait_for(work, ANSWER_SECONDS)
            except TimeoutError:
                raise AssertionError(f"{ledger.waiting} operations have no answer") from None
    async with Client(shop.url) as client:
        settled = await ledger.audit(client, SETTLE_SECONDS)
    await asyncio.to_thread(books_agree, shop)
    recovered = max(0.0, ledger.last_trouble - ended)
    return Cell(fault, role, dict(ledger.answers), dict(ledger.trouble), round(recovered, 2), round(settled, 2))


def books_agree(shop):
    """`till audit` finds nothing."""
    command = [str(binary()), "audit", "--pd-endpoints", f"127.0.0.1:{shop.ports.kv}"]
    audit = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert audit.returncode == 0, audit.stdout + audit.stderr
