"""The two variants of the consistency test as a load: everybody buys at once while a fault strikes.

A thousand users with credit for one unit, a thousand orders of one unit each. Every client asks under its own key until
the answer is definite; then the sales are exactly what is gone from stock and credit, and no order was refused for
which there was still stock and credit."""

import asyncio
import random

from chaos.ledger import Ledger

USERS = 1000
ORDERS = 1000


class Race(Ledger):
    """Like a ledger, but each client only checks out its own order, once."""

    def __init__(self, items, stock):
        super().__init__(items, stock, USERS, 1, orders=0)
        self.items, self.stock = items, stock
        self._to_go = []

    async def fill(self, client):
        await super().fill(client)
        rng = random.Random(f"{self.items}-{self.stock}")
        users = [rng.choice(list(self.money)) for _ in range(ORDERS)]
        lines = [rng.choice(list(self.units)) for _ in range(ORDERS)]
        gate = asyncio.Semaphore(50)

        async def make(user, item):
            async with gate:
                order = await client.new_order(user, (item, 1))
            self.note_order(order, user)
            self.lines[order][item] = 1
            return order

        self._to_go = await asyncio.gather(*map(make, users, lines))

    async def _worker(self, client, over, rng):
        # Orders that are left when the load is told to end are bought all the same.
        while self._to_go:
            await self._checkout(client, rng, self._to_go.pop())
            # So that the fault strikes in the middle of the race.
            await asyncio.sleep(rng.uniform(0, 0.08))

    async def audit(self, client, settle_seconds):
        took = await super().audit(client, settle_seconds)
        sold = len(self.sold)
        shelves = sum([await client.stock(item) for item in self.units])
        purses = {user: await client.credit(user) for user in self.money}
        assert sold == self.items * self.stock - shelves == USERS - sum(purses.values())
        if self.items == 1:
            assert sold == self.stock, f"{sold} of {self.stock} units sold"
        left = {item for item in self.units if await client.stock(item)}
        for order in self.lines.keys() - self.sold:
            [item] = self.lines[order]
            assert item not in left or not purses[self.owner[order]], f"order {order} was refused for nothing"
        return took


LOADS = {
    "mixed": Ledger,
    "one-item": lambda: Race(items=1, stock=100),
    "many-items": lambda: Race(items=100, stock=1),
}
