"""Every POST may be repeated: under one Idempotency-Key it takes effect at most once."""

import asyncio
import uuid


def fresh():
    return f"key-{uuid.uuid4()}"


async def test_a_repeated_call_takes_effect_once_and_gets_the_first_answer(api, other):
    item, user = await api.new_item(2, 10), await api.new_user(100)
    order = await api.new_order(user, (item, 1))

    async def state():
        found = await api.order(order)
        return await api.stock(item), await api.credit(user), found["total_cost"], found["paid"]

    for path in (
        f"/stock/add/{item}/5",
        f"/stock/subtract/{item}/1",
        f"/payment/add_funds/{user}/7",
        f"/payment/pay/{user}/3",
        f"/payment/pay/{user}/invoice-7/3",
        f"/payment/cancel/{user}/invoice-7",
        f"/orders/addItem/{order}/{item}/2",
        f"/orders/addItem/{order}/{item}",
        f"/orders/checkout/{order}",
    ):
        key = fresh()
        before = await state()
        first = await api.post(path, key=key)
        assert first.ok, first
        after = await state()
        assert after != before, path
        for client in (api, other):
            again = await client.post(path, key=key)
            assert (again.status, again.text) == (first.status, first.text), path
        assert await state() == after, path


async def test_what_is_created_twice_under_one_key_is_one(api, other):
    for path in ("/stock/item/create/3", "/payment/create_user", "/orders/create/somebody"):
        key = fresh()
        first = await api.post(path, key=key)
        assert first.ok
        assert (await other.post(path, key=key)).text == first.text
        assert (await api.post(path, key=fresh())).text != first.text
        assert (await api.post(path)).text != first.text


async def test_a_removal_may_be_repeated(api):
    item = await api.new_item(2, 10)
    order = await api.new_order("somebody", (item, 3))
    for path in (f"/orders/removeItem/{order}/{item}", f"/orders/remove/{order}"):
        key = fresh()
        first = await api.delete(path, key=key)
        assert first.ok
        again = await api.delete(path, key=key)
        assert (again.status, again.text) == (first.status, first.text)
        if "removeItem" in path:
            assert (await api.order(order))["total_cost"] == 4


async def test_calls_repeated_at_the_same_time_take_effect_once(api, other):
    item, user = await api.new_item(1, 100), await api.new_user(100)
    order = await api.new_order(user, (item, 5))
    for path in (f"/stock/subtract/{item}/10", f"/payment/pay/{user}/20", f"/orders/checkout/{order}"):
        key = fresh()
        replies = await asyncio.gather(*(client.post(path, key=key) for client in (api, other) * 10))
        assert {(reply.status, reply.text) for reply in replies} == {(200, replies[0].text)}, path
    assert (await api.stock(item), await api.credit(user)) == (85, 75)
    key = fresh()
    replies = await asyncio.gather(*(client.post("/payment/create_user", key=key) for client in (api, other) * 10))
    assert len({reply.json()["user_id"] for reply in replies}) == 1


async def test_a_refusal_is_not_remembered(api):
    item, user = await api.new_item(4, 0), await api.new_user(0)
    order = await api.new_order(user, (item, 1))
    subtract, pay, checkout = fresh(), fresh(), fresh()
    assert (await api.post(f"/stock/subtract/{item}/1", key=subtract)).refused
    assert (await api.post(f"/payment/pay/{user}/1", key=pay)).refused
    assert (await api.checkout(order, key=checkout)).refused
    assert (await api.post(f"/stock/add/{item}/5")).ok
    assert (await api.post(f"/payment/add_funds/{user}/10")).ok
    for _ in range(2):
        assert (await api.post(f"/stock/subtract/{item}/1", key=subtract)).ok
        assert (await api.post(f"/payment/pay/{user}/1", key=pay)).ok
        assert (await api.checkout(order, key=checkout)).ok
    assert (await api.stock(item), await api.credit(user)) == (3, 5)


async def test_a_key_stands_for_one_call(api, other):
    item, user = await api.new_item(4, 10), await api.new_user(10)
    key = fresh()
    assert (await api.post(f"/stock/subtract/{item}/1", key=key)).ok
    for path in (f"/stock/subtract/{item}/2", f"/stock/add/{item}/1", f"/payment/pay/{user}/1", "/payment/create_user"):
        for client in (api, other):
            reply = await client.post(path, key=key)
            assert reply.status == 422, reply
            assert reply.reason == "REQUEST_ID_REUSED"
    assert (await api.stock(item), await api.credit(user)) == (9, 10)
    assert (await api.post(f"/stock/subtract/{item}/1", key=key)).ok
    assert await api.stock(item) == 9


async def test_a_correlation_id_is_echoed_and_makes_nothing_one(api):
    user = await api.new_user()
    headers = {"X-Request-Id": "trace-me-1"}
    for _ in range(2):
        reply = await api.post(f"/payment/add_funds/{user}/1", headers=headers)
        assert reply.ok
        assert reply.headers["x-request-id"] == "trace-me-1"
    assert await api.credit(user) == 2


async def test_a_key_that_is_too_long_is_malformed(api):
    user = await api.new_user()
    assert (await api.post(f"/payment/add_funds/{user}/1", key="k" * 129)).status == 400
    assert (await api.post(f"/payment/add_funds/{user}/1", key="k" * 100 + uuid.uuid4().hex[:8])).ok
    assert await api.credit(user) == 1
