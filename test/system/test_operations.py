"""What operators do and see: replicas replaced under load, readiness, metrics."""

import asyncio
import json
import os
import random
import signal
import urllib.error
import urllib.request

from conftest import running_shop
from shop.client import Client
from shop.load import Market
from shop.process import wait_until

ROLES = ["http-bridge", "coordinator", "order", "stock", "payment", "dev-kv"]


def ask(address, path):
    """Asks an admin listener; returns status and text, with status 0 if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Balanced(Client):
    """A client behind a balancer, which sends it to a bridge that reports ready."""

    def __init__(self, urls):
        self._ready = set(urls)
        super().__init__(urls[0])
        self._urls = urls
        self._rng = random.Random(7)

    @property
    def url(self):
        return self._rng.choice(sorted(self._ready))

    @url.setter
    def url(self, _):
        pass

    async def watch(self):
        """Asks every bridge again and again, as balancers do, and never waits for one that is stopping."""
        while True:
            for url in self._urls:
                status, _ = await asyncio.to_thread(ask, url.removeprefix("http://"), "/readyz")
                if status == 200:
                    self._ready.add(url)
                elif len(self._ready) > 1:
                    self._ready.discard(url)
            await asyncio.sleep(0.02)

    async def knows_all(self):
        """Returns when it sends calls to every bridge. A rolling upgrade waits for its balancers in the same way."""
        while len(self._ready) < len(self._urls):
            await asyncio.sleep(0.02)


def replace(shop, name):
    """Stops one replica in order; returns when its successor is ready."""
    shop.kill(name, signal.SIGTERM)
    admin = shop.children()[name]["admin"]
    wait_until(f"{name} is ready again", lambda: ask(admin, "/readyz")[0] == 200, 30.0)


async def test_every_replica_of_every_role_replaced_under_load_fails_no_request():
    with running_shop(2) as shop:
        sold = Market(items=50, stock=400, users=300, credit=80, orders=6000)
        async with Balanced(shop.urls) as client:
            await sold.fill(client)
            watching = asyncio.create_task(client.watch())
            replaced = asyncio.Event()
            buying = asyncio.create_task(sold.buy(client, until=replaced, seed="replaced"))
            await asyncio.sleep(1.0)
            for name in shop.children():
                # There is only one dev-kv.
                if not name.startswith("dev-kv"):
                    await asyncio.to_thread(replace, shop, name)
                    await client.knows_all()
            replaced.set()
            await buying
            watching.cancel()
            assert set(sold.answers) <= {200, 409}, sold.answers
            assert sold.answers[200] > 100, sold.answers
            await sold.audit(client, settle_seconds=10.0)
        # A replica that is away for a moment is not an ERROR.
        assert not shop.errors()


def test_a_role_says_that_it_is_going_before_it_closes_its_door():
    with running_shop(1) as shop:
        for role in ("order", "http-bridge"):
            child = shop.children()[f"{role}-0"]
            admin = child["admin"]
            assert ask(admin, "/readyz")[0] == 200
            os.kill(child["pid"], signal.SIGTERM)

            def going():
                status, text = ask(admin, "/readyz")
                return status == 503 and json.loads(text)

            told = wait_until(f"{role} says that it is going", going, 5.0)
            assert told["ready"] is False
            if role == "order":
                assert told["details"]["state"] == "draining", told
            else:
                # Not ready, and still served: the listener stays open until balancers have noticed.
                assert told["details"]["draining"] is True, told
                assert ask(child["address"], "/readyz")[0] == 503
                assert ask(child["address"], "/stock/find/nothing")[0] in (404, 503)
            wait_until(f"{role} is back", lambda: ask(admin, "/readyz")[0] == 200, 30.0)


async def test_every_role_tells_what_it_did():
    with running_shop(1) as shop:
        sold = Market(items=5, stock=100, users=10, credit=100, orders=40)
        async with Client(shop.url) as client:
            await sold.fill(client)
            await sold.buy(client, seconds=1.0)
        texts = {}
        for role in ROLES:
            admin = shop.children()[f"{role}-0"]["admin"]
            assert ask(admin, "/livez")[0] == 200
            status, text = ask(admin, "/readyz")
            assert status == 200 and json.loads(text)["ready"] is True, text
            status, texts[role] = ask(admin, "/metrics")
            assert status == 200
            assert f'till_ready{{service_name="till-{role}"}} 1' in texts[role], texts[role]
        for role in ("order", "stock", "payment"):
            for name in ("till_lane_batch_size_count", "till_kv_commits_total", "till_votes_unresolved", "tikv_"):
                assert f"\n{name}" in texts[role], f"{role} does not tell {name}"
        paid = [line for line in texts["coordinator"].splitlines() if 'till_checkout_outcome="paid"' in line]
        assert paid and int(paid[0].rsplit(" ", 1)[1]) > 0, paid
        assert 'http_route="/orders/checkout/{order_id}"' in texts["http-bridge"]
        # Ids are never labels, and neither is anything that a client makes up.
        async with Client(shop.url) as client:
            await client.call("GET", "/no/such/path", published=False)
            await client.call("BREW", "/orders/checkout/1", published=False)
        _, text = ask(shop.children()["http-bridge-0"]["admin"], "/metrics")
        assert "/no/such" not in text and "BREW" not in text
