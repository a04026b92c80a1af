"""Races by which shops lose money, over real processes.

Warszawski and Bailis, "ACIDRain: Concurrency-Related Attacks on Database-Backed Web Applications" (SIGMOD 2017),
found three kinds in twelve shops: a cart that is changed while it is checked out, stock that is sold twice, and a
voucher that is spent twice. Each test counts what it reached, and fails where nothing met."""

import asyncio
import collections
import contextlib
import time

import pytest

from conftest import running_shop
from shop.entry_points import SETTLE_SECONDS, EntryPoints

RICH = 1000


@pytest.fixture(scope="module")
def two_of_each():
    """One shop for all races: at the end no hold of any race is left."""
    with running_shop(2) as shop:
        yield shop
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                EntryPoints(shop, 0).audit("--quiet")
                break
            except AssertionError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.2)


@contextlib.asynccontextmanager
async def racing(shop, name, *reached, sure=False):
    """The entry points of a shop. Afterwards the books must agree, and everything in `reached` must have happened."""
    async with EntryPoints(shop, name, sure) as entries:
        yield entries
        await asyncio.to_thread(entries.audit)
        print(name, dict(sorted(entries.counts.items())))
        missed = [what for what in reached if not entries.counts[what]]
        assert not missed, f"never happened: {missed}, but {entries.counts}"


async def together(*calls):
    return await asyncio.gather(*calls)


def units(order):
    """Units by items."""
    counted = collections.Counter()
    for item, quantity in order["items"]:
        counted[item] += quantity
    return counted


# Carts.


async def changed_carts(entries, carts):
    """A cart of two lines: one grows and one shrinks."""
    prices = 3, 5, 11
    items = [await entries.new_item(price, RICH) for price in prices]
    worth = dict(zip(items, prices, strict=True))
    made = await together(*(entries.new_cart(RICH, (items[0], 2), (items[1], 1)) for _ in range(carts)))
    sold = collections.Counter()

    async def race(user, order):
        checkout, added, removed = await together(
            entries.checkout(order),
            entries.post(f"/orders/addItem/{order}/{items[2]}/4"),
            entries.delete(f"/orders/removeItem/{order}/{items[0]}"),
        )
        assert checkout.ok, checkout
        found = await entries.bridge.order(order)
        # Changes that got 200 are in the order that was sold; changes that came too late were refused.
        due = collections.Counter({items[0]: 2 - removed.ok, items[1]: 1, items[2]: 4 * added.ok})
        assert found["paid"] and units(found) == +due, (found, due)
        total = sum(worth[item] * quantity for item, quantity in due.items())
        assert found["total_cost"] == total, found
        await entries.has(user, RICH - total)
        sold.update(due)
        for change in added, removed:
            assert change.ok or change.reason == "ALREADY_PAID", change
            entries.counts["changed and paid for" if change.ok else "changed too late"] += 1
            entries.counts["changed during the checkout"] += change.ok and change.meets(checkout)

    await together(*(race(*cart) for cart in made))
    for item in items:
        await entries.holds(item, RICH - sold[item])


async def test_a_cart_changed_during_its_checkout_is_charged_as_it_is_sold(two_of_each):
    reached = "changed and paid for", "changed too late", "changed during the checkout"
    async with racing(two_of_each, "changed carts", *reached) as entries:
        for _ in range(4):
            await changed_carts(entries, 60)


async def removed_carts(entries, carts):
    """The order, or its only unit, is taken away."""
    item = await entries.new_item(7, RICH)
    made = await together(*(entries.new_cart(RICH, (item, 1)) for _ in range(carts)))

    async def race(number, user, order):
        whole = number % 2 == 0
        path = f"/orders/remove/{order}" if whole else f"/orders/removeItem/{order}/{item}"
        checkout, removed = await together(entries.checkout(order), entries.delete(path))
        assert checkout.ok != removed.ok, (checkout, removed)
        if checkout.ok:
            assert removed.reason == "ALREADY_PAID", removed
            assert (await entries.bridge.order(order))["paid"]
        else:
            assert checkout.reason == ("ORDER_NOT_FOUND" if whole else "EMPTY_ORDER"), checkout
            gone = await entries.bridge.get(f"/orders/find/{order}")
            assert gone.status == 404 if whole else not gone.json()["paid"], gone
        await entries.has(user, RICH - 7 * checkout.ok)
        entries.counts["sold" if checkout.ok else "removed"] += 1
        entries.counts["at once"] += checkout.meets(removed)
        return checkout.ok

    sold = sum(await together(*(race(number, *cart) for number, cart in enumerate(made))))
    await entries.holds(item, RICH - sold)


async def test_an_order_removed_during_its_checkout_is_gone_or_paid(two_of_each):
    async with racing(two_of_each, "removed carts", "sold", "removed", "at once") as entries:
        for _ in range(4):
            await removed_carts(entries, 60)


async def test_orders_overwritten_during_their_checkouts_conserve_money_and_units(two_of_each):
    """Who bought what is lost with the order. But it was bought: the units are gone, and the money was paid."""
    orders, items, users, price = 40, 5, 8, 3
    reached = "bought", "bought and overwritten", "checkouts that met an overwriting"
    async with racing(two_of_each, "overwritten carts", *reached) as entries:
        for _ in range(4):
            client = entries.bridge
            await client.fill(items=items, stock=RICH, price=price, users=users, credit=RICH, orders=orders)
            path = f"/orders/batch_init/{orders}/{items}/{users}/{price}"
            asked = [entries.ask(str(number)) for number in [*range(orders)] * 3]
            *checkouts, first, second = await together(*asked, entries.post(path), entries.post(path))
            assert first.ok and second.ok and all(told.ok for told in checkouts)
            bought = sum(told.bought for told in checkouts)
            left = await together(*(client.credit(number) for number in range(users)))
            stock = await together(*(client.stock(number) for number in range(items)))
            found = await together(*(client.order(number) for number in range(orders)))
            assert users * RICH - sum(left) == 2 * price * bought, (left, bought)
            assert items * RICH - sum(stock) == 2 * bought, (stock, bought)
            spent, taken = collections.Counter(), collections.Counter()
            for order in found:
                if order["paid"]:
                    spent[int(order["user_id"])] += order["total_cost"]
                    taken.update(units(order))
            assert all(RICH - credit >= spent[number] for number, credit in enumerate(left)), (left, spent)
            assert all(RICH - count >= taken[str(number)] for number, count in enumerate(stock)), (stock, taken)
            entries.counts["bought"] += bought
            entries.counts["bought and overwritten"] += bought - sum(order["paid"] for order in found)
            met = [told for told in checkouts if told.meets(first) or told.meets(second)]
            entries.counts["checkouts that met an overwriting"] += len(met)


# Stock.


async def contended_stock(entries, orders):
    """Two items, ordered together in either sequence, while other calls add and take units."""
    start = orders // 3
    items = [await entries.new_item(2, start) for _ in range(2)]
    # Some want both items, in either order; some want one.
    baskets = [items, items[::-1], items[:1], items[1:]]
    made = await together(
        *(entries.new_cart(RICH, *((item, 1) for item in baskets[number % 4])) for number in range(orders))
    )
    deeds = ("add", 1), ("subtract", -2)
    changes = [(f"/stock/{deed}/{item}/{abs(by)}", item, by) for item in items for deed, by in deeds]
    asked = [entries.checkout(order) for _, order in made]
    given = [change for change in changes for _ in range(orders // 6)]
    told = await together(*asked, *(entries.post(path) for path, _, _ in given))
    checkouts, given_told = told[:orders], told[orders:]
    due = dict.fromkeys(items, start)
    for (_, item, by), change in zip(given, given_told, strict=True):
        assert change.ok or (by < 0 and change.reason == "OUT_OF_STOCK"), change
        due[item] += by * change.ok
        entries.counts["given" if by > 0 else "taken" if change.ok else "not taken"] += 1
    entries.counts["last units met"] += sum(
        checkout.ok and any(change.ok and change.meets(checkout) for change in given_told) for checkout in checkouts
    )
    for number, checkout in enumerate(checkouts):
        assert checkout.ok or checkout.reason == "OUT_OF_STOCK", checkout
        entries.counts["sold" if checkout.ok else "refused"] += 1
        for item in baskets[number % 4] if checkout.ok else ():
            due[item] -= 1
    assert min(due.values()) >= 0, due
    for item in items:
        await entries.holds(item, due[item])
    # What is left is sold to those who still want it, to the last unit.
    for offset, item in zip((2, 3), items, strict=True):
        waiting = [made[n][1] for n in range(offset, orders, 4) if not checkouts[n].ok]
        late = await together(*(entries.checkout(order) for order in waiting))
        assert sum(told.ok for told in late) == min(due[item], len(waiting)), (late, due)
        due[item] -= sum(told.ok for told in late)
        await entries.holds(item, due[item])
    for number, (user, order) in enumerate(made):
        found = await entries.bridge.order(order)
        assert await entries.bridge.credit(user) == RICH - found["total_cost"] * found["paid"], (number, found)


async def test_last_units_are_sold_once_while_others_give_and_take_them(two_of_each):
    async with racing(two_of_each, "last units", "sold", "refused", "taken", "not taken", "last units met") as entries:
        for _ in range(4):
            await contended_stock(entries, 72)


# Credit.


async def spent_twice(entries, users):
    """Credit for one purchase, and three calls that want it: two checkouts and a payment."""
    item = await entries.new_item(10, RICH)
    made = await together(*(entries.new_cart(10, (item, 1)) for _ in range(users)))

    async def race(user, order):
        second = await entries.bridge.new_order(user, (item, 1))
        told = await together(
            entries.checkout(order), entries.checkout(second), entries.post(f"/payment/pay/{user}/10")
        )
        assert sum(call.ok for call in told) == 1, told
        assert all(call.ok or call.reason == "OUT_OF_CREDIT" for call in told), told
        paid = [(await entries.bridge.order(number))["paid"] for number in (order, second)]
        assert paid == [told[0].ok, told[1].ok], (paid, told)
        await entries.has(user, 0)
        entries.counts["paid by a payment" if told[2].ok else "paid by a checkout"] += 1
        [winner] = [call for call in told if call.ok]
        entries.counts["all three at once"] += all(winner.meets(call) for call in told)
        return sum(paid)

    sold = sum(await together(*(race(*cart) for cart in made)))
    await entries.holds(item, RICH - sold)


async def test_credit_for_one_order_pays_one_order(two_of_each):
    reached = "paid by a payment", "paid by a checkout", "all three at once"
    async with racing(two_of_each, "spent twice", *reached) as entries:
        for _ in range(3):
            await spent_twice(entries, 50)


async def test_a_payment_given_back_and_funds_added_are_spent_once(two_of_each):
    reached = "1 of 2 sold", "given back during a checkout", "cancelled twice at once"
    async with racing(two_of_each, "vouchers", *reached) as entries:
        for _ in range(3):
            item = await entries.new_item(10, RICH)
            made = await together(*(entries.new_cart(10, (item, 1)) for _ in range(40)))
            await together(*(given_back(entries, item, *cart) for cart in made))


async def given_back(entries, item, user, order):
    """A payment is given back once, funds under one key come once, and a checkout is no such payment."""
    client = entries.bridge
    orders = [order, await client.new_order(user, (item, 1))]
    assert (await client.post(f"/payment/pay/{user}/slip/10")).ok
    key = entries.key()
    cancel, funds = f"/payment/cancel/{user}/slip", f"/payment/add_funds/{user}/5"
    first, second, *told = await together(
        entries.post(cancel),
        entries.post(cancel),
        entries.post(funds, key=key),
        entries.post(funds, key=key),
        entries.post(f"/payment/cancel/{user}/{order}"),
        entries.post(f"/payment/pay/{user}/5"),
        *(entries.checkout(number) for number in orders),
    )
    assert {first.reason, second.reason} == {"", "NOT_PAID"}, (first, second)
    assert told[0].ok and told[0].text == told[1].text, told
    assert told[2].reason == "NOT_PAID", told
    *_, paid, one, other = told
    assert all(call.reason in ("", "OUT_OF_CREDIT") for call in (paid, one, other)), told
    credit = 10 + 5 - 5 * paid.ok - 10 * one.ok - 10 * other.ok
    assert credit >= 0, told
    await entries.has(user, credit)
    back = first if first.ok else second
    entries.counts[f"{one.ok + other.ok} of 2 sold"] += 1
    entries.counts["given back during a checkout"] += any(call.ok and call.meets(back) for call in (one, other))
    entries.counts["cancelled twice at once"] += first.meets(second)
    # With credit for what is left to buy, all of it is sold, and each order once.
    wanted = [number for number, call in zip(orders, (one, other), strict=True) if not call.ok]
    if wanted:
        await client.post(f"/payment/add_funds/{user}/{10 * len(wanted) - credit}")
        assert all(call.ok for call in await together(*(entries.checkout(number) for number in wanted * 2)))
        await entries.has(user, 0)


# Entry points.


async def many_entry_points(entries, orders):
    """Credit for one order, one unit, one order and eight calls: all are answered that it is paid."""
    keys = [entries.key() for _ in range(orders)]

    async def race(key):
        item = await entries.new_item(10, 1)
        user, order = await entries.new_cart(10, (item, 1))
        path = f"/orders/checkout/{order}"
        told = await together(
            entries.post(path, key=key),
            entries.post(path, key=key),
            entries.post(path, key=entries.key()),
            entries.post(path),
            entries.ask(order, replica=None if entries.sure else 0),
            entries.ask(order, replica=None if entries.sure else 1),
            entries.ask(order, request_id=(same := entries.key())),
            entries.ask(order, request_id=same),
        )
        assert all(call.ok for call in told), told
        assert (await entries.bridge.order(order))["paid"]
        await entries.has(user, 0)
        await entries.holds(item, 0)
        # A call repeated under one id gets the same answer.
        assert sum(call.bought for call in told[4:6]) + any(call.bought for call in told[6:]) <= 1, told
        entries.counts["bought by gRPC" if any(call.bought for call in told) else "bought by REST"] += 1
        entries.counts["all eight at once"] += max(c.began for c in told) < min(c.ended for c in told)

    await together(*(race(key) for key in keys))


async def test_one_order_by_eight_calls_at_all_entry_points_is_charged_once(two_of_each):
    reached = "bought by gRPC", "bought by REST", "all eight at once"
    async with racing(two_of_each, "many doors", *reached) as entries:
        for _ in range(3):
            await many_entry_points(entries, 40)


# What the buyer confirmed.


async def confirmed_carts(entries, carts):
    """A shopper reads a cart and buys what was read, while somebody changes it."""
    prices = 7, 9
    items = [await entries.new_item(price, RICH) for price in prices]
    made = await together(*(entries.new_cart(RICH, (items[0], 2)) for _ in range(carts)))
    sold = collections.Counter()

    async def race(number, user, order):
        seen, token = await entries.seen(order)
        # So that either comes first often enough, however fast the machine is.
        late = (0.0, 0.03, 0.1, 0.3)[number % 4]
        confirmed, *changes = await together(
            entries.confirm(order, token),
            entries.post(f"/orders/addItem/{order}/{items[1]}/3", late=late),
            entries.delete(f"/orders/removeItem/{order}/{items[0]}", late=late),
        )
        after = any(change.began > confirmed.began and change.meets(confirmed) for change in changes)
        if confirmed.ok:
            # It was bought as it was seen; later changes were refused.
            assert {change.reason for change in changes} == {"ALREADY_PAID"}, changes
            assert await entries.bridge.order(order) == {**seen, "paid": True}
            entries.counts["200"] += 1
            entries.counts["200, a change sent meanwhile"] += after
        else:
            assert confirmed.reason == "ORDER_MODIFIED" and any(change.ok for change in changes), (confirmed, changes)
            assert not (await entries.bridge.order(order))["paid"]
            await entries.has(user, RICH)
            entries.counts["412"] += 1
            entries.counts["412, a change sent meanwhile"] += after
            # Both what was seen first and what is there now are confirmed at once.
            seen, now = await entries.seen(order)
            stale, fresh = await together(entries.confirm(order, token), entries.confirm(order, now))
            assert stale.reason == "ORDER_MODIFIED" and fresh.ok, (stale, fresh)
            entries.counts["old and new token at once"] += stale.meets(fresh)
        await entries.has(user, RICH - seen["total_cost"])
        sold.update(units(seen))

    await together(*(race(number, *cart) for number, cart in enumerate(made)))
    for item in items:
        await entries.holds(item, RICH - sold[item])


async def test_a_total_that_was_confirmed_is_what_is_charged(two_of_each):
    meanwhile = "200, a change sent meanwhile", "412, a change sent meanwhile"
    async with racing(two_of_each, "confirmed totals", *meanwhile, "old and new token at once") as entries:
        for _ in range(4):
            await confirmed_carts(entries, 60)


async def test_an_order_made_anew_at_another_price_is_not_sold_under_the_old_token(two_of_each):
    orders, items, users = 60, 5, 8
    reached = "200", "412", "200, overwritten afterwards", "met the overwriting"
    async with racing(two_of_each, "confirmed and overwritten", *reached) as entries:
        for _ in range(4):
            client = entries.bridge
            await client.fill(items=items, stock=RICH, price=3, users=users, credit=RICH, orders=orders)
            tokens = [token for _, token in await together(*(entries.seen(number) for number in range(orders)))]
            # 5 to 640 ms late: some come before, some during, and some after it, however fast the machine is.
            late = [0.005 * 2 ** entries.rng.uniform(0, 7) for _ in tokens]
            asked = [entries.confirm(str(n), token, late=late[n]) for n, token in enumerate(tokens)]
            dearer = entries.post(f"/orders/batch_init/{orders}/{items}/{users}/5", late=0.02)
            *told, overwritten = await together(*asked, dearer)
            assert overwritten.ok and all(call.reason in ("", "ORDER_MODIFIED") for call in told), told
            sold = sum(call.ok for call in told)
            left = await together(*(client.credit(number) for number in range(users)))
            stock = await together(*(client.stock(number) for number in range(items)))
            assert (users * RICH - sum(left), items * RICH - sum(stock)) == (6 * sold, 2 * sold), (left, stock, sold)
            found = await together(*(client.order(number) for number in range(orders)))
            assert all(order["total_cost"] == 10 - 4 * order["paid"] for order in found), found
            entries.counts["200"] += sold
            entries.counts["412"] += orders - sold
            entries.counts["200, overwritten afterwards"] += sold - sum(order["paid"] for order in found)
            entries.counts["met the overwriting"] += sum(call.meets(overwritten) for call in told)


# Keys.


async def one_key_for_two(entries, kind):
    """Two different calls under one key: one takes effect, the other one is told."""
    item = await entries.new_item(10, 100)
    user, order = await entries.new_cart(100, (item, 1))
    other = await entries.bridge.new_order(user, (item, 2))

    async def state():
        found = [await entries.bridge.get(f"/orders/find/{number}") for number in (order, other)]
        # A removed order is worth what no other can be.
        orders = [reply.json()["total_cost"] if reply.ok else -1 for reply in found]
        return *orders, await entries.bridge.stock(item), await entries.bridge.credit(user)

    # What is called, and what orders, stock and credit are then.
    pairs = {
        "funds": [("POST", f"/payment/add_funds/{user}/7"), (10, 20, 100, 107)],
        "payment": [("POST", f"/payment/pay/{user}/9"), (10, 20, 100, 91)],
        "one": [("POST", f"/orders/checkout/{order}"), (10, 20, 99, 90)],
        "two": [("POST", f"/orders/checkout/{other}"), (10, 20, 98, 80)],
        "remove": [("DELETE", f"/orders/remove/{order}"), (-1, 20, 100, 100)],
        "add": [("POST", f"/orders/addItem/{order}/{item}/4"), (50, 20, 100, 100)],
        "supply": [("POST", f"/stock/add/{item}/4"), (10, 20, 104, 100)],
        "shrink": [("POST", f"/stock/subtract/{item}/3"), (10, 20, 97, 100)],
    }
    key, calls = entries.key(), [pairs[name] for name in kind]
    told = await together(*(entries.call(*call, key=key) for call, _ in calls))
    assert sorted((call.reason, call.status) for call in told) == [("", 200), ("REQUEST_ID_REUSED", 422)], told
    winner = 0 if told[0].ok else 1
    assert await state() == calls[winner][1], (kind, winner)
    again = await entries.call(*calls[winner][0], key=key)
    assert (again.ok, again.text) == (True, told[winner].text), again
    assert await state() == calls[winner][1], (kind, winner)
    entries.counts["the first won" if winner == 0 else "the second won"] += 1
    entries.counts["at once"] += told[0].meets(told[1])


async def test_one_key_for_two_calls_lets_one_of_them_through(two_of_each):
    kinds = [("funds", "payment"), ("one", "two"), ("one", "remove"), ("add", "remove"), ("supply", "shrink"),
             ("one", "add"), ("one", "funds"), ("payment", "shrink")]  # fmt: skip
    async with racing(two_of_each, "one key", "the first won", "the second won", "at once") as entries:
        for _ in range(3):
            await together(*(one_key_for_two(entries, kind) for kind in kinds * 6))


async def test_an_item_added_by_calls_of_one_key_is_added_once(two_of_each):
    """While the order is bought: then all of the calls were in time, or none."""
    async with racing(two_of_each, "one addition", "added", "too late", "during the checkout") as entries:
        item = await entries.new_item(4, 10 * RICH)

        async def race():
            user, order = await entries.new_cart(RICH, (item, 1))
            key, path = entries.key(), f"/orders/addItem/{order}/{item}/5"
            checkout, *added = await together(entries.checkout(order), *(entries.post(path, key=key) for _ in range(4)))
            [(reason, _)] = {(call.reason, call.text) for call in added}
            assert checkout.ok and reason in ("", "ALREADY_PAID"), (checkout, added)
            found = await entries.bridge.order(order)
            assert (found["paid"], found["total_cost"]) == (True, 4 if reason else 24), (found, added)
            await entries.has(user, RICH - found["total_cost"])
            entries.counts["too late" if reason else "added"] += 1
            entries.counts["during the checkout"] += any(call.meets(checkout) for call in added)

        for _ in range(4):
            await together(*(race() for _ in range(40)))


# Deaths.


async def test_no_race_is_won_while_an_order_and_a_coordinator_are_killed(two_of_each):
    reached = "killed", "changed during the checkout", "paid by a checkout", "all eight at once", "200", "412"
    async with racing(two_of_each, "deaths", *reached, sure=True) as entries:
        over = asyncio.Event()

        async def killing():
            while not over.is_set():
                for name in "order-0", "coordinator-0":
                    await asyncio.to_thread(two_of_each.kill, name)
                    entries.counts["killed"] += 1

        killer = asyncio.create_task(killing())
        for _ in range(3):
            for race in changed_carts, spent_twice, many_entry_points, confirmed_carts:
                await race(entries, 30)
        over.set()
        await killer
