"""A read never lags behind an answer, on any replica."""

import asyncio


async def test_after_a_success_every_replica_reads_it(api, other):
    async def buyer(number):
        here, there = (api, other) if number % 2 else (other, api)
        user, item = await here.new_user(9), await here.new_item(3, 5)
        assert (await there.credit(user), await there.stock(item)) == (9, 5)
        order = await there.new_order(user, (item, 2))
        assert (await here.order(order))["total_cost"] == 6
        assert (await here.checkout(order)).ok
        found, stock, credit = await asyncio.gather(there.order(order), there.stock(item), there.credit(user))
        assert (found["paid"], stock, credit) == (True, 3, 3)

    await asyncio.gather(*(buyer(number) for number in range(60)))


async def test_after_a_refusal_every_replica_reads_the_stock_restored(api, other):
    """The first item is held before the second turns out to be short."""

    async def buyer(number):
        here, there = (api, other) if number % 2 else (other, api)
        items = [await here.new_item(1, stock) for stock in (4, 4, 4, 0)]
        user = await here.new_user(4)
        order = await here.new_order(user, *((item, 1) for item in items))
        reply = await here.checkout(order)
        assert reply.reason == "OUT_OF_STOCK"
        left = await asyncio.gather(*(there.stock(item) for item in items), there.credit(user))
        assert left == [4, 4, 4, 0, 4]

    await asyncio.gather(*(buyer(number) for number in range(40)))


async def test_counters_of_many_writers_lose_nothing(api, other):
    item, user = await api.new_item(1, 0), await api.new_user(0)
    clients = (api, other)
    await asyncio.gather(
        *(clients[n % 2].post(f"/stock/add/{item}/1") for n in range(300)),
        *(clients[n % 2].post(f"/payment/add_funds/{user}/2") for n in range(300)),
    )
    assert (await other.stock(item), await api.credit(user)) == (300, 600)
    replies = await asyncio.gather(*(clients[n % 2].post(f"/stock/subtract/{item}/1") for n in range(400)))
    assert sum(reply.ok for reply in replies) == 300
    assert {reply.reason for reply in replies if not reply.ok} == {"OUT_OF_STOCK"}
    assert await api.stock(item) == 0
