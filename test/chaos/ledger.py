"""Clients that make every kind of call, repeat each until it is answered, and record all answers.

Every POST carries an Idempotency-Key and is repeated with it until the answer is definite: so the ledger knows the
outcome of every call, and the shop must agree with it to the unit."""

import asyncio
import collections
import random
import time
import uuid

import aiohttp

PRICE = 1
PAUSE_SECONDS = 0.05
# A slower answer counts as trouble.
SLOW_SECONDS = 1.0


class Ledger:
    """What the shop was filled with, and the answers since."""

    def __init__(self, items=20, stock=400, users=100, credit=60, orders=2000):
        self.orders = orders
        self.units = dict.fromkeys(map(str, range(items)), stock)
        self.money = dict.fromkeys(map(str, range(users)), credit)
        self.lines = {}
        self.owner = {}
        self.sold = set()
        self.answers = collections.Counter()
        self.trouble = collections.Counter()
        self.wrong = []
        self.waiting = 0
        self.last_trouble = 0.0

    async def fill(self, client):
        """Overwrites items, users and orders, and notes what the orders hold."""
        stock, credit = next(iter(self.units.values())), next(iter(self.money.values()))
        await client.fill(
            items=len(self.units), stock=stock, price=PRICE, users=len(self.money), credit=credit, orders=self.orders
        )
        for order in await asyncio.gather(*(client.order(number) for number in range(self.orders))):
            self.note_order(order["order_id"], order["user_id"])
            for item, quantity in order["items"]:
                self.lines[order["order_id"]][item] += quantity

    def note_order(self, order, user):
        self.owner[order] = user
        self.lines[order] = collections.Counter()

    async def work(self, client, over, workers=20, seed=0):
        """Makes calls until the event is set; returns when every call is answered."""
        await asyncio.gather(*(self._worker(client, over, random.Random(f"{seed}-{n}")) for n in range(workers)))

    async def _worker(self, client, over, rng):
        deeds = [self._buy, self._supply, self._take, self._pay, self._earn, self._basket, self._look]
        weights = [10, 1, 1, 1, 1, 2, 3]
        while not over.is_set():
            [deed] = rng.choices(deeds, weights)
            await deed(client, rng)

    async def _ask(self, client, rng, path):
        """Posts until the answer is definite."""
        key = str(uuid.uuid4())
        return await self._until_definite(lambda: client.post(path, key=key), path)

    async def _until_definite(self, call, what):
        begun = time.monotonic()
        self.waiting += 1
        while True:
            try:
                reply = await call()
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._note_trouble(type(error).__name__)
            else:
                if reply.ok or (reply.refused and reply.status != 429):
                    break
                if reply.status in (429, 503):
                    self._note_trouble(f"{reply.status} {reply.reason}")
                else:
                    self.wrong.append(f"{what}: {reply.status} {reply.text[:200]}")
                    break
            await asyncio.sleep(PAUSE_SECONDS)
        self.waiting -= 1
        if time.monotonic() - begun > SLOW_SECONDS:
            self.last_trouble = time.monotonic()
        self.answers["done" if reply.ok else reply.reason] += 1
        return reply

    def _note_trouble(self, what):
        self.trouble[what] += 1
        self.last_trouble = time.monotonic()

    async def _buy(self, client, rng):
        await self._checkout(client, rng, str(rng.randrange(self.orders)))

    async def _checkout(self, client, rng, order):
        was_sold = order in self.sold
        reply = await self._ask(client, rng, f"/orders/checkout/{order}")
        if reply.ok:
            self.sold.add(order)
        elif was_sold:
            self.wrong.append(f"order {order} was refused after it had been sold: {reply.text}")

    async def _supply(self, client, rng):
        await self._change(client, rng, "/stock/add", self.units, 1)

    async def _take(self, client, rng):
        await self._change(client, rng, "/stock/subtract", self.units, -1)

    async def _pay(self, client, rng):
        await self._change(client, rng, "/payment/pay", self.money, -1)

    async def _earn(self, client, rng):
        await self._change(client, rng, "/payment/add_funds", self.money, 1)

    async def _change(self, client, rng, path, book, sign):
        name, amount = rng.choice(list(book)), rng.randint(1, 3)
        reply = await self._ask(client, rng, f"{path}/{name}/{amount}")
        if reply.ok:
            book[name] += sign * amount

    async def _basket(self, client, rng):
        """A new order, from empty to paid."""
        user = rng.choice(list(self.money))
        created = await self._ask(client, rng, f"/orders/create/{user}")
        if not created.ok:
            self.wrong.append(f"no order was made: {created.text}")
            return
        order = created.json()["order_id"]
        self.note_order(order, user)
        for item in rng.sample(list(self.units), 2):
            added = await self._ask(client, rng, f"/orders/addItem/{order}/{item}/1")
            if added.ok:
                self.lines[order][item] += 1
        await self._checkout(client, rng, order)

    async def _look(self, client, rng):
        """A read never lags a reply."""
        order = str(rng.randrange(self.orders))
        was_sold = order in self.sold
        reply = await self._until_definite(lambda: client.get(f"/orders/find/{order}"), "find")
        if reply.ok and was_sold and not reply.json()["paid"]:
            self.wrong.append(f"order {order} reads unpaid after it had been sold")

    async def audit(self, client, settle_seconds):
        """Compares the shop with the ledger; returns how long the last unfinished hold took to be released."""
        begun = time.monotonic()
        while True:
            wrong, held = await self._compare(client)
            wrong = self.wrong + wrong
            assert not wrong, "\n".join(wrong[:20])
            took = time.monotonic() - begun
            if not held:
                return took
            assert took < settle_seconds, f"after {took:.1f} s:\n" + "\n".join(held[:20])
            await asyncio.sleep(0.1)

    async def _compare(self, client):
        orders = await asyncio.gather(*(client.order(order) for order in self.lines))
        stocks = await asyncio.gather(*(client.stock(item) for item in self.units))
        credits = await asyncio.gather(*(client.credit(user) for user in self.money))
        units, money, wrong, held = dict(self.units), dict(self.money), [], []
        for order in orders:
            name = order["order_id"]
            if order["paid"] != (name in self.sold):
                wrong.append(f"order {name}: paid is {order['paid']}, and a buyer was told otherwise")
            if dict(order["items"]) != dict(self.lines[name]) or order["user_id"] != self.owner[name]:
                wrong.append(f"order {name} is not as it was made: {order}")
            if order["paid"]:
                money[order["user_id"]] -= order["total_cost"]
                for item, quantity in order["items"]:
                    units[item] -= quantity
        for what, due, seen in (("item", units, stocks), ("user", money, credits)):
            for (name, should), has in zip(due.items(), seen, strict=True):
                if has != should:
                    problem = f"{what} {name} has {has}, by the books {should}"
                    (held if 0 <= has < should else wrong).append(problem)
        return wrong, held
