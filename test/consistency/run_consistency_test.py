#!/usr/bin/env python3
"""Buys more than there is, all at once, and compares the replies with the database.

Fills the shop, checks out every order at the same time, then checks the replies against what was for sale,
and after that the database against the replies: per order, per user, per item, and that nobody was refused
who could have bought (maximality).

    run_consistency_test.py                                          1 item, 100 in stock, 1,000 buyers
    run_consistency_test.py --items 100 --stock 1                    100 items, one of each
    run_consistency_test.py --url http://localhost:8000 --fill batch overwrites items and users "0", "1", ...

A reply of 2xx is a sale and one of 400 to 499 a refusal; whatever else happens (5xx, a broken connection, no
answer in time) leaves the buyer in the dark and fails the test. Exit code 0: no mismatch; 1: mismatches; 2: the
shop could not be filled.
"""

import argparse
import asyncio
import collections
import dataclasses
import json
import pathlib
import random
import sys
import time

import aiohttp

URLS_FILE = pathlib.Path(__file__).resolve().parent.parent / "urls.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to sell to whom. Money in minor units."""

    order_url: str
    payment_url: str
    stock_url: str
    items: int = 1
    stock: int = 100
    price: int = 1
    users: int = 1000
    credit: int = 1
    orders: int = 1000
    fill: str = "calls"
    connections: int = 100
    phase_seconds: float = 300.0
    seed: int | None = None

    @classmethod
    def at(cls, url, **sizes):
        """Everything behind one address."""
        return cls(order_url=url, payment_url=url, stock_url=url, **sizes)


@dataclasses.dataclass
class Order:
    """One buyer's order: one unit of one item."""

    order_id: str
    user_id: str
    item_id: str
    said: str = "nothing"
    how: str = ""


@dataclasses.dataclass
class Line:
    """One row of the verdict."""

    name: str
    expected: str
    seen: str
    good: bool


class FillError(Exception):
    """The shop could not be filled."""


async def _call(session, method, url):
    async with session.request(method, url) as reply:
        text = await reply.text()
        if not 200 <= reply.status < 300:
            raise FillError(f"{method} {url} answered {reply.status}: {text}")
        return json.loads(text) if "json" in reply.content_type else text


async def _fill(session, plan, rng):
    """Makes items, users and orders; returns the ids of the items and users, and the orders."""
    if plan.fill == "batch":
        await asyncio.gather(
            _call(session, "POST", f"{plan.stock_url}/stock/batch_init/{plan.items}/{plan.stock}/{plan.price}"),
            _call(session, "POST", f"{plan.payment_url}/payment/batch_init/{plan.users}/{plan.credit}"),
        )
        items = [str(number) for number in range(plan.items)]
        users = [str(number) for number in range(plan.users)]
    else:

        async def item():
            item_id = (await _call(session, "POST", f"{plan.stock_url}/stock/item/create/{plan.price}"))["item_id"]
            await _call(session, "POST", f"{plan.stock_url}/stock/add/{item_id}/{plan.stock}")
            return item_id

        async def user():
            user_id = (await _call(session, "POST", f"{plan.payment_url}/payment/create_user"))["user_id"]
            await _call(session, "POST", f"{plan.payment_url}/payment/add_funds/{user_id}/{plan.credit}")
            return user_id

        items = await asyncio.gather(*(item() for _ in range(plan.items)))
        users = await asyncio.gather(*(user() for _ in range(plan.users)))

    async def order(user_id, item_id):
        order_id = (await _call(session, "POST", f"{plan.order_url}/orders/create/{user_id}"))["order_id"]
        await _call(session, "POST", f"{plan.order_url}/orders/addItem/{order_id}/{item_id}/1")
        return Order(order_id, user_id, item_id)

    wishes = [(rng.choice(users), rng.choice(items)) for _ in range(plan.orders)]
    orders = await asyncio.gather(*(order(*wish) for wish in wishes))
    return items, users, orders


async def _checkout(session, plan, order):
    try:
        async with session.post(f"{plan.order_url}/orders/checkout/{order.order_id}") as reply:
            await reply.read()
            order.how = str(reply.status)
            if 200 <= reply.status < 300:
                order.said = "sold"
            elif 400 <= reply.status < 500:
                order.said = "refused"
            else:
                order.said = "unclear"
    except (aiohttp.ClientError, OSError) as error:
        order.said = "unclear"
        order.how = type(error).__name__


async def _read_back(session, plan, items, users, orders):
    async def stock(item_id):
        return (await _call(session, "GET", f"{plan.stock_url}/stock/find/{item_id}"))["stock"]

    async def credit(user_id):
        return (await _call(session, "GET", f"{plan.payment_url}/payment/find_user/{user_id}"))["credit"]

    async def paid(order):
        return (await _call(session, "GET", f"{plan.order_url}/orders/find/{order.order_id}"))["paid"]

    stocks = dict(zip(items, await asyncio.gather(*map(stock, items)), strict=True))
    credits = dict(zip(users, await asyncio.gather(*map(credit, users)), strict=True))
    paids = await asyncio.gather(*map(paid, orders))
    return stocks, credits, paids


def judge_replies(plan, orders, sales):
    """What the replies alone must satisfy."""
    per_user = collections.Counter(order.user_id for order in sales)
    per_item = collections.Counter(order.item_id for order in sales)
    affordable = plan.credit // plan.price if plan.price else plan.orders
    wanted = collections.Counter(order.user_id for order in orders)
    buyable = sum(min(count, affordable) for count in wanted.values())
    unclear = collections.Counter(order.how for order in orders if order.said not in ("sold", "refused"))
    yield Line("replies that leave the buyer in the dark", "none", str(dict(unclear) or "none"), not unclear)
    if plan.items == 1:
        must = min(plan.stock, buyable)
        yield Line("sales by the replies", f"exactly {must}", str(len(sales)), len(sales) == must)
    else:
        most = min(plan.items * plan.stock, buyable)
        yield Line("sales by the replies", f"at most {most}", str(len(sales)), len(sales) <= most)
    broke = sum(1 for count in per_user.values() if count > affordable)
    yield Line("users who bought more than they can pay", "0", str(broke), broke == 0)
    oversold = sum(1 for count in per_item.values() if count > plan.stock)
    yield Line("items sold more often than they were there", "0", str(oversold), oversold == 0)


def judge_database(plan, orders, sales, stocks, credits, paids):
    """What the database must satisfy, given the replies."""
    per_user = collections.Counter(order.user_id for order in sales)
    per_item = collections.Counter(order.item_id for order in sales)
    sold = plan.items * plan.stock - sum(stocks.values())
    yield Line("units gone from the stock", str(len(sales)), str(sold), sold == len(sales))
    spent = plan.users * plan.credit - sum(credits.values())
    due = len(sales) * plan.price
    yield Line("credit spent", str(due), str(spent), spent == due)
    wrong = sum(1 for item, left in stocks.items() if left != plan.stock - per_item[item])
    yield Line("items whose stock is not what the replies say", "0", str(wrong), wrong == 0)
    wrong = sum(1 for user, left in credits.items() if left != plan.credit - per_user[user] * plan.price)
    yield Line("users whose credit is not what the replies say", "0", str(wrong), wrong == 0)
    wrong = sum(1 for order, paid in zip(orders, paids, strict=True) if paid != (order.said == "sold"))
    yield Line("orders whose paid mark is not what the reply said", "0", str(wrong), wrong == 0)
    possible = sum(
        1
        for order, paid in zip(orders, paids, strict=True)
        if not paid and stocks[order.item_id] >= 1 and credits[order.user_id] >= plan.price
    )
    yield Line("orders refused that could still be bought", "0", str(possible), possible == 0)


async def run(plan, meanwhile=None):
    """Runs the whole test; gives the verdict's lines and a few figures. Raises FillError. `meanwhile`, a
    coroutine function, is run beside the checkouts."""
    rng = random.Random(plan.seed)
    connector = aiohttp.TCPConnector(limit=plan.connections)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begun = time.monotonic()
        try:
            items, users, orders = await _fill(session, plan, rng)
        except (aiohttp.ClientError, OSError) as error:
            raise FillError(f"{type(error).__name__}: {error}") from error
        filled = time.monotonic()
        checkouts = asyncio.gather(*(_checkout(session, plan, order) for order in orders))
        beside = asyncio.create_task(meanwhile()) if meanwhile else None
        try:
            await asyncio.wait_for(checkouts, plan.phase_seconds)
        except TimeoutError:
            for order in orders:
                if order.said == "nothing":
                    order.how = "no answer in time"
        bought = time.monotonic()
        if beside:
            await beside
        # The official clients count in this way: every reply that is not a refusal is a sale.
        sales = [order for order in orders if order.said != "refused"]
        lines = list(judge_replies(plan, orders, sales))
        stocks, credits, paids = await _read_back(session, plan, items, users, orders)
        lines += judge_database(plan, orders, sales, stocks, credits, paids)
    figures = {"fill_seconds": filled - begun, "checkout_seconds": bought - filled, "sales": len(sales)}
    return lines, figures


def table(lines):
    """The verdict for people."""
    head = Line("check", "expected", "seen", True)
    rows = [head, *lines]
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("name", "expected", "seen")]
    text = []
    for row in rows:
        verdict = "" if row is head else "ok" if row.good else "MISMATCH"
        cells = (row.name.ljust(widths[0]), row.expected.rjust(widths[1]), row.seen.rjust(widths[2]), verdict)
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help=f"address of all three services (default: those in {URLS_FILE.name})")
    parser.add_argument("--items", type=int, default=1)
    parser.add_argument("--stock", type=int, default=100, help="units of each item")
    parser.add_argument("--price", type=int, default=1)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--credit", type=int, default=1, help="of each user")
    parser.add_argument("--orders", type=int, default=1000, help="of one unit of one item each")
    parser.add_argument("--fill", choices=("calls", "batch"), default="calls", help="how items and users are made")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--phase-seconds", type=float, default=300.0, help="all checkouts must be answered in this time")
    parser.add_argument("--seed", type=int, help="who wants what (default: random)")
    return parser.parse_args()


def main():
    arguments = vars(_arguments())
    url = arguments.pop("url")
    if arguments["seed"] is None:
        arguments["seed"] = random.randrange(2**32)
    if url:
        plan = Plan.at(url.rstrip("/"), **arguments)
    else:
        urls = json.loads(URLS_FILE.read_text())
        plan = Plan(urls["ORDER_URL"], urls["PAYMENT_URL"], urls["STOCK_URL"], **arguments)
    print(
        f"{plan.orders} orders of one unit, {plan.users} users with credit {plan.credit}, "
        f"{plan.items} item(s) with stock {plan.stock} at price {plan.price}, seed {plan.seed}"
    )
    try:
        lines, figures = asyncio.run(run(plan))
    except FillError as error:
        print(f"the shop could not be filled: {error}", file=sys.stderr)
        return 2
    print(table(lines))
    print(f"filled in {figures['fill_seconds']:.2f} s, all checkouts answered in {figures['checkout_seconds']:.2f} s")
    bad = sum(1 for line in lines if not line.good)
    print("no mismatch" if bad == 0 else f"{bad} MISMATCHES")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
