"""Buyers who record their answers, and the audit that compares the shop with them."""

import asyncio
import collections
import random
import uuid

import aiohttp

PRICE = 1


class Market:
    """A filled shop and all answers to its buyers."""

    def __init__(self, items, stock, users, credit, orders):
        self.items, self.stock = items, stock
        self.users, self.credit = users, credit
        self.orders = orders
        self.contents = {}
        self.said = {}
        self.answers = collections.Counter()

    async def fill(self, client):
        """Overwrites items, users and orders "0", "1", ... and notes what the orders hold."""
        await client.fill(
            items=self.items,
            stock=self.stock,
            price=PRICE,
            users=self.users,
            credit=self.credit,
            orders=self.orders,
        )
        found = await asyncio.gather(*(client.order(number) for number in range(self.orders)))
        self.contents = {order["order_id"]: order for order in found}

    async def buy(self, client, seconds=None, until=None, buyers=20, seed=0):
        """Buyers check out random orders for some seconds or until an event, each one thing at a time.
        Somebody who gets no answer asks again under the same key, as long as the shop is down."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds if seconds else None

        def over():
            return until.is_set() if until else loop.time() > end

        async def buyer(number):
            rng = random.Random(f"{seed}-{number}")
            while not over():
                order = str(rng.randrange(self.orders))
                key = str(uuid.uuid4())
                while not await self._ask(client, order, key) and not over():
                    await asyncio.sleep(0.05)

        await asyncio.gather(*(buyer(number) for number in range(buyers)))

    async def _ask(self, client, order, key):
        """Asks once and records the answer; returns true if it was definite."""
        said = self.said.setdefault(order, set())
        try:
            reply = await client.checkout(order, key=key)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.answers[type(error).__name__] += 1
            said.add("unknown")
            return False
        self.answers[reply.status] += 1
        if reply.ok:
            said.add("sold")
        elif reply.refused:
            # Only success is final: a paid order is never refused afterwards.
            said.add("contradicted" if "sold" in said else "refused")
        else:
            assert reply.status == 503, reply
            said.add("unknown")
        return reply.ok or reply.refused

    async def audit(self, client, settle_seconds=0.0):
        """Compares every item, user and order with the paid orders, and those with the answers.

        After a crash, holds of transactions that nobody finished may be missing from the shelves for a
        while: that much, and nothing else, may take `settle_seconds` to come right."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            wrong, held, paid = await self._look(client)
            assert not wrong, "\n".join(wrong[:20])
            took = loop.time() - begun
            if not held:
                break
            assert took < settle_seconds, f"after {took:.1f} s:\n" + "\n".join(held[:20])
            await asyncio.sleep(0.1)
        print(f"{paid} of {self.orders} orders paid, answers {dict(self.answers)}, settled after {took:.1f} s")
        return paid

    async def _look(self, client):
        """What is wrong, what is short as an unfinished hold would make it, and how many orders are paid."""
        found = await asyncio.gather(*(client.order(number) for number in range(self.orders)))
        stocks = await asyncio.gather(*(client.stock(number) for number in range(self.items)))
        credits = await asyncio.gather(*(client.credit(number) for number in range(self.users)))
        units = [self.stock] * self.items
        money = [self.credit] * self.users
        wrong = [problem for order in found for problem in self._judge(order)]
        for order in found:
            if order["paid"]:
                money[int(order["user_id"])] -= order["total_cost"]
                for item, quantity in order["items"]:
                    units[int(item)] -= quantity
        held = []
        for what, seen, due in (("item", stocks, units), ("user", credits, money)):
            for number, (has, should) in enumerate(zip(seen, due, strict=True)):
                if has != should:
                    problem = f"{what} {number} has {has}, by the paid orders it should have {should}"
                    (held if 0 <= has < should else wrong).append(problem)
        return wrong, held, sum(order["paid"] for order in found)

    def _judge(self, order):
        """What is wrong with one order, given what its buyers were told."""
        number = order["order_id"]
        said = self.said.get(number, set())
        if {**order, "paid": False} != {**self.contents[number], "paid": False}:
            yield f"order {number} has changed: {order}"
        if "sold" in said and not order["paid"]:
            yield f"order {number}: a buyer was told it is paid, and it is not"
        if "contradicted" in said:
            yield f"order {number} was refused after it had been sold"
        if order["paid"] and not said & {"sold", "unknown"}:
            yield f"order {number} is paid, and nobody was told"
