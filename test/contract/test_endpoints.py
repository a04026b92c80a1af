"""Every call of the shop's REST face: what it answers, what it changes, what it refuses.

The client checks each answer against /openapi.json: a status, content type or body that is not described there fails
the test.
"""

import asyncio

import pytest

MOST = 2**53 - 1

CALLS = {
    ("POST", "/orders/create/{user_id}"),
    ("GET", "/orders/find/{order_id}"),
    ("POST", "/orders/addItem/{order_id}/{item_id}"),
    ("POST", "/orders/addItem/{order_id}/{item_id}/{quantity}"),
    ("DELETE", "/orders/removeItem/{order_id}/{item_id}"),
    ("DELETE", "/orders/remove/{order_id}"),
    ("POST", "/orders/checkout/{order_id}"),
    ("POST", "/orders/batch_init/{n}/{n_items}/{n_users}/{item_price}"),
    ("POST", "/stock/item/create/{price}"),
    ("GET", "/stock/find/{item_id}"),
    ("POST", "/stock/add/{item_id}/{amount}"),
    ("POST", "/stock/subtract/{item_id}/{amount}"),
    ("POST", "/stock/batch_init/{n}/{starting_stock}/{item_price}"),
    ("POST", "/payment/create_user"),
    ("GET", "/payment/find_user/{user_id}"),
    ("POST", "/payment/add_funds/{user_id}/{amount}"),
    ("POST", "/payment/pay/{user_id}/{amount}"),
    ("POST", "/payment/pay/{user_id}/{order_id}/{amount}"),
    ("POST", "/payment/cancel/{user_id}/{order_id}"),
    ("GET", "/payment/status/{user_id}/{order_id}"),
    ("POST", "/payment/batch_init/{n}/{starting_money}"),
}


def refused(reply, status, reason):
    """This problem, in the form of RFC 9457."""
    assert reply.status == status, reply
    assert reply.headers["content-type"].split(";")[0] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == status
    assert problem["reason"] == reason
    for name in ("type", "title", "detail"):
        assert isinstance(problem[name], str) and problem[name], problem


async def test_the_published_document_names_every_call(contract):
    missing = CALLS - contract.operations()
    assert not missing


async def test_the_shop_explains_itself_to_people_and_to_probes(api):
    assert (await api.get("/healthz")).ok
    assert (await api.get("/readyz")).ok
    docs = await api.call("GET", "/docs", published=False)
    assert docs.ok and docs.headers["content-type"].startswith("text/html")


async def test_items_are_made_found_filled_and_emptied(api):
    reply = await api.post("/stock/item/create/7")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("application/json")
    item = reply.json()["item_id"]
    assert isinstance(item, str) and item and " " not in item
    assert (await api.get(f"/stock/find/{item}")).json() == {"stock": 0, "price": 7}
    assert (await api.post(f"/stock/add/{item}/5")).ok
    assert (await api.post(f"/stock/subtract/{item}/2")).ok
    assert (await api.get(f"/stock/find/{item}")).json() == {"stock": 3, "price": 7}
    refused(await api.post(f"/stock/subtract/{item}/4"), 409, "OUT_OF_STOCK")
    assert await api.stock(item) == 3
    assert (await api.post(f"/stock/subtract/{item}/3")).ok
    assert await api.stock(item) == 0


async def test_users_are_made_found_funded_and_charged(api):
    reply = await api.post("/payment/create_user")
    assert reply.status == 200
    user = reply.json()["user_id"]
    assert (await api.get(f"/payment/find_user/{user}")).json() == {"user_id": user, "credit": 0}
    assert (await api.post(f"/payment/add_funds/{user}/10")).ok
    assert (await api.post(f"/payment/pay/{user}/4")).ok
    assert await api.credit(user) == 6
    refused(await api.post(f"/payment/pay/{user}/7"), 409, "OUT_OF_CREDIT")
    assert await api.credit(user) == 6


async def test_orders_are_made_filled_and_bought(api):
    user, apple, pear = await api.new_user(100), await api.new_item(3, 10), await api.new_item(5, 10)
    order = (await api.post(f"/orders/create/{user}")).json()["order_id"]
    assert await api.order(order) == {
        "order_id": order,
        "paid": False,
        "items": [],
        "user_id": user,
        "total_cost": 0,
    }
    assert (await api.post(f"/orders/addItem/{order}/{apple}/2")).ok
    assert (await api.post(f"/orders/addItem/{order}/{pear}/1")).ok
    found = await api.order(order)
    assert sorted(found["items"]) == sorted([[apple, 2], [pear, 1]])
    assert found["total_cost"] == 11
    assert await api.stock(apple) == 10, "an order holds nothing before it is checked out"
    reply = await api.checkout(order)
    assert reply.status == 200
    assert "Checkout successful" in reply.text
    assert (await api.order(order))["paid"] is True
    assert (await api.stock(apple), await api.stock(pear), await api.credit(user)) == (8, 9, 89)


async def test_the_user_of_an_order_need_not_exist_yet(api):
    item = await api.new_item(1, 1)
    order = await api.new_order("nobody-yet", (item, 1))
    refused(await api.checkout(order), 409, "UNKNOWN_USER")
    assert await api.stock(item) == 1
    assert (await api.order(order))["paid"] is False


async def test_the_price_is_frozen_when_the_item_is_added(api):
    await api.fill(items=1, stock=10, price=4, users=1, credit=100, orders=0)
    order = await api.new_order("0", ("0", 2))
    assert (await api.post("/stock/batch_init/1/10/9")).ok
    assert (await api.order(order))["total_cost"] == 8
    assert (await api.checkout(order)).ok
    assert await api.credit("0") == 92


async def test_an_item_added_twice_is_bought_twice(api):
    user, item = await api.new_user(10), await api.new_item(2, 3)
    order = await api.new_order(user, (item, 1), (item, 2))
    assert sum(quantity for _, quantity in (await api.order(order))["items"]) == 3
    assert (await api.checkout(order)).ok
    assert (await api.stock(item), await api.credit(user)) == (0, 4)


async def test_what_is_not_there_is_not_found(api):
    item, user = await api.new_item(1, 1), await api.new_user(1)
    order = await api.new_order(user, (item, 1))
    for method, path, reason in (
        ("GET", "/orders/find/none", "ORDER_NOT_FOUND"),
        ("POST", "/orders/checkout/none", "ORDER_NOT_FOUND"),
        ("POST", f"/orders/addItem/none/{item}/1", "ORDER_NOT_FOUND"),
        ("POST", f"/orders/addItem/{order}/none/1", "ITEM_NOT_FOUND"),
        ("POST", f"/orders/addItem/{order}/none", "ITEM_NOT_FOUND"),
        ("DELETE", f"/orders/removeItem/none/{item}", "ORDER_NOT_FOUND"),
        ("DELETE", "/orders/remove/none", "ORDER_NOT_FOUND"),
        ("GET", "/stock/find/none", "ITEM_NOT_FOUND"),
        ("POST", "/stock/add/none/1", "ITEM_NOT_FOUND"),
        ("POST", "/stock/subtract/none/1", "ITEM_NOT_FOUND"),
        ("GET", "/payment/find_user/none", "USER_NOT_FOUND"),
        ("POST", "/payment/add_funds/none/1", "USER_NOT_FOUND"),
        ("POST", "/payment/pay/none/1", "USER_NOT_FOUND"),
        ("POST", "/payment/pay/none/some-order/1", "USER_NOT_FOUND"),
    ):
        refused(await api.call(method, path), 404, reason)
    assert (await api.order(order))["total_cost"] == 1


async def test_a_checkout_is_refused_for_every_business_reason_and_leaves_nothing_behind(api):
    rich, poor = await api.new_user(100), await api.new_user(4)
    plenty, scarce = await api.new_item(5, 10), await api.new_item(1, 1)
    empty = await api.new_order(rich)
    refused(await api.checkout(empty), 409, "EMPTY_ORDER")
    too_many = await api.new_order(rich, (plenty, 1), (scarce, 2))
    refused(await api.checkout(too_many), 409, "OUT_OF_STOCK")
    too_dear = await api.new_order(poor, (plenty, 1), (scarce, 1))
    refused(await api.checkout(too_dear), 409, "OUT_OF_CREDIT")
    assert (await api.stock(plenty), await api.stock(scarce)) == (10, 1)
    assert (await api.credit(rich), await api.credit(poor)) == (100, 4)
    for order in (empty, too_many, too_dear):
        assert (await api.order(order))["paid"] is False


async def test_a_stored_order_may_name_an_item_that_does_not_exist(api):
    await api.fill(items=1, stock=1, price=1, users=1, credit=100)
    assert (await api.post(f"/orders/batch_init/1/{MOST}/1/1")).ok
    refused(await api.checkout("0"), 409, "UNKNOWN_ITEM")
    assert await api.credit("0") == 100


async def test_a_refused_order_is_bought_once_the_facts_have_changed(api):
    user, item = await api.new_user(), await api.new_item(6, 0)
    order = await api.new_order(user, (item, 1))
    assert (await api.checkout(order)).refused
    assert (await api.post(f"/stock/add/{item}/1")).ok
    refused(await api.checkout(order), 409, "OUT_OF_CREDIT")
    assert await api.stock(item) == 1
    assert (await api.post(f"/payment/add_funds/{user}/6")).ok
    assert (await api.checkout(order)).ok
    assert (await api.stock(item), await api.credit(user)) == (0, 0)


async def test_a_paid_order_is_paid_for_good_and_charged_once(api, other):
    user, item = await api.new_user(10), await api.new_item(3, 10)
    order = await api.new_order(user, (item, 1))
    for client in (api, api, other):
        reply = await client.checkout(order)
        assert reply.status == 200 and "Checkout successful" in reply.text
    replies = await asyncio.gather(*(client.checkout(order) for client in (api, other) * 10))
    assert all(reply.status == 200 for reply in replies)
    refused(await api.post(f"/orders/addItem/{order}/{item}/1"), 409, "ALREADY_PAID")
    refused(await api.delete(f"/orders/removeItem/{order}/{item}"), 409, "ALREADY_PAID")
    refused(await api.delete(f"/orders/remove/{order}"), 409, "ALREADY_PAID")
    assert (await api.stock(item), await api.credit(user)) == (9, 7)
    assert (await api.order(order))["total_cost"] == 3


async def test_items_are_taken_off_at_the_price_they_were_added_for(api):
    await api.fill(items=1, stock=10, price=4, users=1, credit=100)
    order = await api.new_order("0", ("0", 1))
    assert (await api.post("/stock/batch_init/1/10/9")).ok
    assert (await api.post(f"/orders/addItem/{order}/0")).ok
    assert (await api.order(order))["total_cost"] == 13
    assert (await api.delete(f"/orders/removeItem/{order}/0")).ok
    assert (await api.order(order))["total_cost"] == 4
    assert (await api.delete(f"/orders/removeItem/{order}/0")).ok
    found = await api.order(order)
    assert (found["total_cost"], found["items"]) == (0, [])
    refused(await api.delete(f"/orders/removeItem/{order}/0"), 409, "NOT_IN_ORDER")


async def test_an_order_that_is_removed_is_gone(api, other):
    order = await api.new_order("anybody")
    assert (await api.delete(f"/orders/remove/{order}")).ok
    refused(await other.get(f"/orders/find/{order}"), 404, "ORDER_NOT_FOUND")
    refused(await other.checkout(order), 404, "ORDER_NOT_FOUND")


async def test_a_payment_for_an_order_is_remembered_and_given_back_once(api):
    user = await api.new_user(10)
    status = f"/payment/status/{user}/invoice-1"
    assert (await api.get(status)).json() == {"paid": False}
    refused(await api.post(f"/payment/cancel/{user}/invoice-1"), 409, "NOT_PAID")
    refused(await api.post(f"/payment/pay/{user}/invoice-1/11"), 409, "OUT_OF_CREDIT")
    assert (await api.get(status)).json() == {"paid": False}
    assert (await api.post(f"/payment/pay/{user}/invoice-1/4")).ok
    assert (await api.get(status)).json() == {"paid": True}
    assert await api.credit(user) == 6
    assert (await api.post(f"/payment/cancel/{user}/invoice-1")).ok
    assert (await api.get(status)).json() == {"paid": False}
    assert await api.credit(user) == 10
    refused(await api.post(f"/payment/cancel/{user}/invoice-1"), 409, "NOT_PAID")
    assert await api.credit(user) == 10


async def test_sums_that_are_too_large_are_refused(api):
    item, user = await api.new_item(MOST, MOST), await api.new_user(MOST)
    refused(await api.post(f"/stock/add/{item}/1"), 409, "OVERFLOW")
    refused(await api.post(f"/payment/add_funds/{user}/1"), 409, "OVERFLOW")
    order = await api.new_order(user, (item, 1))
    refused(await api.post(f"/orders/addItem/{order}/{item}/1"), 409, "OVERFLOW")
    refused(await api.post(f"/orders/addItem/{order}/{item}/{MOST}"), 409, "OVERFLOW")
    assert await api.stock(item) == MOST
    assert (await api.order(order))["total_cost"] == MOST
    assert (await api.checkout(order)).ok
    assert (await api.credit(user), await api.stock(item)) == (0, MOST - 1)


async def test_refusals_of_one_kind_have_one_body(api):
    """Load tools group failures by their text, so it must contain no id and no amount."""
    bodies = {}
    for price in (2, 3):
        user, rich, item = await api.new_user(1), await api.new_user(100), await api.new_item(price, 1)
        short = await api.new_order(user, (item, 1))
        bare = await api.new_order(rich, (item, price))
        for kind, reply in (
            ("credit", await api.checkout(short)),
            ("stock", await api.checkout(bare)),
            ("pay", await api.post(f"/payment/pay/{user}/{price}")),
            ("subtract", await api.post(f"/stock/subtract/{item}/{price}")),
            ("order", await api.get(f"/orders/find/gone-{price}")),
            ("item", await api.get(f"/stock/find/gone-{price}")),
        ):
            bodies.setdefault(kind, set()).add(reply.text)
    assert {kind: len(texts) for kind, texts in bodies.items()} == dict.fromkeys(bodies, 1)


@pytest.mark.parametrize("round", range(5))
async def test_adding_to_an_order_under_checkout_is_before_it_or_refused(api, other, round):
    user, item = await api.new_user(100), await api.new_item(1, 100)
    order = await api.new_order(user, (item, 1))

    async def add():
        return await other.post(f"/orders/addItem/{order}/{item}/1")

    bought, *added = await asyncio.gather(api.checkout(order), *(add() for _ in range(8)))
    assert bought.ok, bought
    assert all(reply.ok or reply.reason == "ALREADY_PAID" for reply in added), added
    cost = 1 + sum(1 for reply in added if reply.ok)
    found = await api.order(order)
    assert found["paid"] and found["total_cost"] == cost
    assert (await api.stock(item), await api.credit(user)) == (100 - cost, 100 - cost)
