"""A malformed request gets 400 with the name of the field, and leaves nothing behind."""

import pytest

MOST = 2**53 - 1

# (method, path with the field in braces, field, least value, greatest value)
NUMBERS = [
    ("/stock/item/create/{}", "price", 0, MOST),
    ("/stock/add/some-item/{}", "amount", 1, MOST),
    ("/stock/subtract/some-item/{}", "amount", 1, MOST),
    ("/stock/batch_init/{}/1/1", "n", 0, 10_000_000),
    ("/stock/batch_init/1/{}/1", "starting_stock", 0, MOST),
    ("/stock/batch_init/1/1/{}", "item_price", 0, MOST),
    ("/payment/add_funds/some-user/{}", "amount", 1, MOST),
    ("/payment/pay/some-user/{}", "amount", 1, MOST),
    ("/payment/pay/some-user/some-order/{}", "amount", 1, MOST),
    ("/payment/batch_init/{}/1", "n", 0, 10_000_000),
    ("/payment/batch_init/1/{}", "starting_money", 0, MOST),
    ("/orders/addItem/some-order/some-item/{}", "quantity", 1, MOST),
    ("/orders/batch_init/{}/1/1/1", "n", 0, 10_000_000),
    ("/orders/batch_init/1/{}/1/1", "n_items", 1, MOST),
    ("/orders/batch_init/1/1/{}/1", "n_users", 1, MOST),
    ("/orders/batch_init/1/1/1/{}", "item_price", 0, None),
]

NOT_NUMBERS = ["-1", "%2B1", "+1", "1.0", "1e3", "0x10", "%201", "1%20", "ten", "1_000", "%D9%A1", "-", "NaN"]

# (method, path with the id in braces, field)
IDS = [
    ("POST", "/orders/create/{}", "user_id"),
    ("GET", "/orders/find/{}", "order_id"),
    ("POST", "/orders/addItem/{}/some-item/1", "order_id"),
    ("POST", "/orders/addItem/some-order/{}/1", "item_id"),
    ("POST", "/orders/addItem/some-order/{}", "item_id"),
    ("DELETE", "/orders/removeItem/{}/some-item", "order_id"),
    ("DELETE", "/orders/removeItem/some-order/{}", "item_id"),
    ("DELETE", "/orders/remove/{}", "order_id"),
    ("POST", "/orders/checkout/{}", "order_id"),
    ("GET", "/stock/find/{}", "item_id"),
    ("POST", "/stock/add/{}/1", "item_id"),
    ("POST", "/stock/subtract/{}/1", "item_id"),
    ("GET", "/payment/find_user/{}", "user_id"),
    ("POST", "/payment/add_funds/{}/1", "user_id"),
    ("POST", "/payment/pay/{}/1", "user_id"),
    ("POST", "/payment/pay/{}/some-order/1", "user_id"),
    ("POST", "/payment/pay/some-user/{}/1", "order_id"),
    ("POST", "/payment/cancel/{}/some-order", "user_id"),
    ("GET", "/payment/status/some-user/{}", "order_id"),
]

NOT_IDS = ["x" * 129, "%C3%A9" * 65, "a%00b", "a%0Ab", "a%7Fb", "a%2Fb", "%FF"]


def names(reply, field):
    """A 400 whose problem body names the field."""
    assert reply.status == 400, reply
    assert reply.headers["content-type"].split(";")[0] == "application/problem+json"
    assert reply.reason == "INVALID_ARGUMENT"
    assert field in reply.text, f"{field} is not named: {reply.text}"


@pytest.mark.parametrize(("path", "field", "least", "most"), NUMBERS, ids=[f"{p[0]}" for p in NUMBERS])
async def test_a_number_that_is_none_or_out_of_range_is_named(api, path, field, least, most):
    wrong = [*NOT_NUMBERS, "9" * 40, str(2**53), str(2**64)]
    if least > 0:
        wrong.append(str(least - 1))
    if most is not None:
        wrong.append(str(most + 1))
    for text in wrong:
        names(await api.call("POST", path.format(text)), field)


@pytest.mark.parametrize(("method", "path", "field"), IDS, ids=[f"{p[0]} {p[1]}" for p in IDS])
async def test_an_id_that_is_none_is_named(api, method, path, field):
    for text in NOT_IDS:
        names(await api.call(method, path.format(text)), field)


async def test_the_longest_id_is_an_id(api):
    longest = "y" * 128
    assert (await api.get(f"/stock/find/{longest}")).status == 404
    order = (await api.post(f"/orders/create/{longest}")).json()["order_id"]
    assert (await api.order(order))["user_id"] == longest


async def test_ids_of_any_letters_come_back_as_they_were(api):
    order = (await api.call("POST", "/orders/create/%C3%A9l%C3%A8ve-%E2%82%AC")).json()["order_id"]
    assert (await api.order(order))["user_id"] == "élève-€"


async def test_the_least_values_are_taken(api):
    item = await api.new_item(0, 1)
    assert (await api.post("/stock/batch_init/0/0/0")).ok
    assert (await api.post("/payment/batch_init/0/0")).ok
    assert (await api.post("/orders/batch_init/0/1/1/0")).ok
    order = await api.new_order(await api.new_user(), (item, 1))
    assert (await api.checkout(order)).ok, "what costs nothing needs no credit"
    assert await api.stock(item) == 0


async def test_what_is_malformed_leaves_nothing_behind(api):
    item, user = await api.new_item(5, 5), await api.new_user(5)
    order = await api.new_order(user, (item, 1))
    for path in (f"/stock/add/{item}/-1", f"/payment/add_funds/{user}/1.5", f"/orders/addItem/{order}/{item}/0"):
        assert (await api.post(path)).status == 400
    assert (await api.stock(item), await api.credit(user)) == (5, 5)
    assert (await api.order(order))["total_cost"] == 5


async def test_a_path_that_nobody_serves_is_not_found(api):
    for method, path in (("GET", "/"), ("GET", "/orders"), ("POST", "/orders/pay/1"), ("GET", "/orders/find/a/b")):
        reply = await api.call(method, path, published=False)
        assert reply.status == 404 or (path == "/" and reply.status < 400), reply


async def test_a_wrong_method_changes_nothing(api):
    user = await api.new_user(3)
    reply = await api.call("GET", f"/payment/pay/{user}/1", published=False)
    assert reply.status == 405, reply
    assert await api.credit(user) == 3
