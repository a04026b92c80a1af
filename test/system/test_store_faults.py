"""The store misbehaves in each way that it supports while buyers buy: no answer is taken back, all sums are right, and
buying goes on as soon as the store works again."""

import asyncio
import json
import urllib.request

import pytest

from conftest import running_shop
from shop.client import Client
from shop.load import Market

# A vote lasts about two seconds before others may resolve its transaction; then they must.
SETTLE_SECONDS = 15.0
HEAL_SECONDS = 15.0


class Store:
    """The administration of a shop's dev-kv."""

    def __init__(self, shop):
        self.url = f"http://127.0.0.1:{shop.ports.kv}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def post(self, path, body):
        return self.call("POST", f"/dev-kv/v1/{path}", body)

    def fault(self, kind, *, rpc=None, probability=1.0, count=None, for_ms=None, **details):
        rule = {"rpc": rpc, "probability": probability, "count": count, "for_ms": for_ms}
        rule = {name: value for name, value in rule.items() if value is not None}
        self.post("faults", {**rule, "fault": {"kind": kind, **details}})

    def hits(self):
        return self.call("GET", "/dev-kv/v1/faults")["hits"]

    def clear(self):
        self.call("DELETE", "/dev-kv/v1/faults")

    def regions(self):
        return self.call("GET", "/pd/api/v1/regions")["count"]


def latency(store):
    store.fault("latency", delay={"exponential": 5})


def replies_lost(store):
    for rpc in ("KvPrewrite", "KvCommit", "KvBatchGet"):
        store.fault("lose_reply", rpc=rpc, probability=0.1)


def replies_awaited_in_vain(store):
    store.fault("lose_reply", rpc="KvPrewrite", probability=0.1, count=6, then="silence")


def late_landings(store):
    for rpc in ("KvPrewrite", "KvCommit"):
        store.fault("land_late", rpc=rpc, probability=0.1, delay={"uniform": [20, 600]})


def leaders_moved(store):
    store.fault("not_leader", rpc="KvPrewrite", probability=0.15, name_leader=True)
    store.fault("not_leader", rpc="KvGet", probability=0.15)


def regions_split(store):
    store.fault("split", rpc="KvPrewrite", probability=0.2, count=8)


def server_busy(store):
    store.fault("server_is_busy", probability=0.1)


def commands_stale(store):
    store.fault("stale_command", probability=0.15)


def nobody_home(store):
    store.fault("refuse", for_ms=1500)


FAULTS = [
    latency,
    replies_lost,
    replies_awaited_in_vain,
    late_landings,
    leaders_moved,
    regions_split,
    server_busy,
    commands_stale,
    nobody_home,
]


@pytest.fixture(scope="module")
def market():
    """A shop over its own dev-kv, and the answers to its buyers. The faults use it one after the other."""
    with running_shop(1) as shop:
        sold = Market(items=20, stock=400, users=200, credit=60, orders=3000)

        async def fill():
            async with Client(shop.url) as client:
                await sold.fill(client)

        asyncio.run(fill())
        yield shop, sold


def definite(sold):
    return sum(sold.answers[status] for status in (200, 409))


async def goes_on(sold, client, seed):
    """Waits until calls get definite answers again."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + HEAL_SECONDS
    while True:
        before = definite(sold)
        await sold.buy(client, seconds=0.5, seed=f"{seed}-{loop.time()}")
        if definite(sold) > before + 20:
            return
        assert loop.time() < deadline, f"after {seed}: {sold.answers}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_misbehaving_store_costs_time_and_nothing_else(market, fault):
    shop, sold = market
    store = Store(shop)
    hits, regions = store.hits(), store.regions()
    async with Client(shop.url, timeout_seconds=10) as client:
        fault(store)
        await sold.buy(client, seconds=1.2, seed=fault.__name__)
        assert store.hits() > hits + 2, "nothing was hit"
        store.clear()
        await goes_on(sold, client, fault.__name__)
        await sold.audit(client, SETTLE_SECONDS)
    if fault is regions_split:
        assert store.regions() > regions, "no region was split"


async def test_frozen_timestamps_stop_the_shop_for_as_long_as_they_last(market):
    shop, sold = market
    store = Store(shop)
    async with Client(shop.url, timeout_seconds=10) as client:
        buying = asyncio.create_task(sold.buy(client, seconds=3.0, seed="frozen"))
        await asyncio.sleep(0.5)
        store.post("freeze-tso", {"for_ms": 1500})
        await buying
        await goes_on(sold, client, "frozen")
        await sold.audit(client, SETTLE_SECONDS)


@pytest.mark.parametrize("by_ms", [20_000, -60_000])
async def test_a_store_whose_clock_jumps_stays_exact(market, by_ms):
    shop, sold = market
    store = Store(shop)
    async with Client(shop.url, timeout_seconds=10) as client:
        buying = asyncio.create_task(sold.buy(client, seconds=2.0, seed=f"jump{by_ms}"))
        await asyncio.sleep(0.7)
        store.post("jump-clock", {"by_ms": by_ms})
        await buying
        await goes_on(sold, client, f"jump{by_ms}")
        await sold.audit(client, SETTLE_SECONDS)


async def test_faults_from_the_start_are_given_by_the_environment():
    rule = {"rpc": "KvPrewrite", "probability": 0.2, "fault": {"kind": "lose_reply"}}
    with running_shop(1, environment={"TILL_DEV_KV_FAULT": json.dumps(rule)}) as shop:
        sold = Market(items=5, stock=50, users=20, credit=20, orders=60)
        async with Client(shop.url) as client:
            await sold.fill(client)
            await sold.buy(client, seconds=1.0)
            Store(shop).clear()
            await goes_on(sold, client, "start")
            await sold.audit(client, SETTLE_SECONDS)
