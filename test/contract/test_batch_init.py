"""Filling the shop: size, time, repetition, and other calls at the same time."""

import asyncio
import random
import time

COUNT = 100_000
CLIENT_TIMEOUT_SECONDS = 60


async def fill(api, stock, credit):
    """The three calls of the stress test, each within the client's patience."""
    for path in (
        f"/stock/batch_init/{COUNT}/{stock}/1",
        f"/payment/batch_init/{COUNT}/{credit}",
        f"/orders/batch_init/{COUNT}/{COUNT}/{COUNT}/1",
    ):
        begun = time.monotonic()
        reply = await api.post(path)
        assert reply.ok, reply
        assert isinstance(reply.json()["msg"], str)
        took = time.monotonic() - begun
        print(f"{path}: {took:.1f} s")
        assert took < CLIENT_TIMEOUT_SECONDS


async def sample(api, count, seed):
    """Some orders, read back."""
    ids = random.Random(seed).sample(range(COUNT), count)
    return await asyncio.gather(*(api.order(str(number)) for number in ids))


async def test_a_hundred_thousand_of_each_are_there_and_can_be_bought(api, other):
    await fill(api, stock=1_000_000, credit=1_000_000)
    for number in (0, 1, COUNT // 2, COUNT - 1):
        assert (await other.get(f"/stock/find/{number}")).json() == {"stock": 1_000_000, "price": 1}
        assert await other.credit(number) == 1_000_000
    assert (await other.get(f"/orders/find/{COUNT}")).status == 404
    orders = await sample(other, 200, seed=1)
    for order in orders:
        assert order["paid"] is False and order["total_cost"] == 2
        assert sum(quantity for _, quantity in order["items"]) == 2
        assert all(0 <= int(item) < COUNT for item, _ in order["items"])
        assert 0 <= int(order["user_id"]) < COUNT
    assert len({order["user_id"] for order in orders}) > 150, "users are drawn at random"
    replies = await asyncio.gather(*(api.checkout(order["order_id"]) for order in orders))
    assert all(reply.status == 200 for reply in replies)
    again = await sample(other, 200, seed=1)
    assert all(order["paid"] for order in again)


async def test_filling_again_while_checkouts_run_leaves_a_whole_shop(api, other):
    """Checkouts of the old and of the new orders run at the same time: each is bought or refused, and afterwards the
    shop adds up again."""
    await api.fill(items=200, stock=10, price=1, users=200, credit=10, orders=500)
    filling = asyncio.Event()

    async def buyer(client, seed):
        rng = random.Random(seed)
        statuses = []
        while not filling.is_set():
            reply = await client.checkout(rng.randrange(500))
            statuses.append(reply.status)
            assert reply.ok or reply.refused, reply
        return statuses

    buyers = [asyncio.create_task(buyer(client, seed)) for seed, client in enumerate((api, other) * 10)]
    for _ in range(3):
        await api.fill(items=200, stock=10, price=1, users=200, credit=10, orders=500)
    filling.set()
    assert sum(len(statuses) for statuses in await asyncio.gather(*buyers)) > 20
    # A last batch_init without other calls sets every figure again.
    await api.fill(items=200, stock=10, price=1, users=200, credit=10, orders=500)
    orders = await asyncio.gather(*(api.order(number) for number in range(500)))
    assert not any(order["paid"] for order in orders)
    replies = await asyncio.gather(*(other.checkout(number) for number in range(500)))
    sold = [order for order, reply in zip(orders, replies, strict=True) if reply.ok]
    stocks = await asyncio.gather(*(api.stock(number) for number in range(200)))
    credits = await asyncio.gather(*(api.credit(number) for number in range(200)))
    units, money = [10] * 200, [10] * 200
    for order in sold:
        money[int(order["user_id"])] -= order["total_cost"]
        for item, quantity in order["items"]:
            units[int(item)] -= quantity
    assert (stocks, credits) == (units, money)
