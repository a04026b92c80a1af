"""Simulated shoppers for locust, in a shop that init_orders.py has filled.

    locust                                              UI on http://localhost:8089
    locust --headless --users 1000 --spawn-rate 100 --run-time 60s --processes 4
    locust --course                                     only checkouts, one a second: the course's stress test

5xx and 429 are failures, and so is an answer that contradicts an earlier one. A refusal (4xx) is not a failure. A call
whose connection breaks, as when a bridge is killed, is repeated under its Idempotency-Key, as docs/rest.md says: it has
a separate line ("broken, repeated"), and is a failure if that does not help. The first checkout of an order (fresh) and
any later one (repeated) have separate lines, because a repeated one does less work. Each filled order belongs to one
process of the load test, which therefore knows which is which. This is true only after init_orders.py: fill the shop
again before each run.
"""

import json
import os
import pathlib
import random
import uuid

import gevent

from locust import FastHttpUser, between, constant, events, task
from locust.runners import MasterRunner, WorkerRunner

URLS_FILE = pathlib.Path(__file__).resolve().parent.parent / "urls.json"

FRESH = "POST /orders/checkout/[order] (fresh)"
REPEATED = "POST /orders/checkout/[order] (repeated)"


# Where the services are, unless --host or the UI says that all are in one place.
KNOWN = json.loads(URLS_FILE.read_text())
if "TARGET_HOST" in os.environ:
    KNOWN = dict.fromkeys(KNOWN, os.environ["TARGET_HOST"])

# Tries of a call whose connection breaks, and the pause before the second; it doubles.
TRIES = 5
PAUSE_SECONDS = 0.1

# Statuses of a checkout that was sold or refused. 429 is neither: nothing was begun.
ANSWERS = (200, *range(400, 429))


class Orders:
    """The filled orders of this process: those nobody has bought yet, in random order, and the bought ones."""

    def __init__(self):
        self.index, self.count = 0, 1
        self.fresh, self.bought = [], []

    def deal(self, total):
        self.fresh = list(range(self.index, total, self.count))
        random.shuffle(self.fresh)
        self.bought = []

    def take(self):
        """Returns a fresh order, while there are any."""
        return self.fresh.pop() if self.fresh else None


ORDERS = Orders()


@events.init_command_line_parser.add_listener
def _arguments(parser):
    parser.add_argument("--course", action="store_true", help="only checkouts, one a second for each user")
    parser.add_argument("--filled", type=int, default=100_000, help="orders, items and users there are (init_orders.py)")


@events.init.add_listener
def _listen(environment, **_):
    if isinstance(environment.runner, WorkerRunner):

        def dealt(msg, **_):
            ORDERS.index, ORDERS.count = msg.data
            ORDERS.deal(environment.parsed_options.filled)

        environment.runner.register_message("slice", dealt)


@events.test_start.add_listener
def _deal(environment, **_):
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        # Sent before the users are: messages to a worker keep their order.
        workers = sorted(runner.clients)
        for index, worker in enumerate(workers):
            runner.send_message("slice", (index, len(workers)), client_id=worker)
    elif not isinstance(runner, WorkerRunner):
        ORDERS.deal(environment.parsed_options.filled)


class Shopper(FastHttpUser):
    """A shopper who buys, looks, and sometimes asks for something impossible."""

    host = KNOWN["ORDER_URL"]
    network_timeout = 60.0
    connection_timeout = 60.0

    def on_start(self):
        options = self.environment.parsed_options
        self.filled = options.filled
        self.wait = constant(1) if options.course else between(1, 15)
        if options.course:
            self.tasks = [Shopper.check_out_anything]
        # Unless told otherwise, it is what stands above, also when it comes from the UI.
        one = self.host if self.host != KNOWN["ORDER_URL"] else None
        self.order, self.payment, self.stock = (
            (one or KNOWN[name]).rstrip("/") for name in ("ORDER_URL", "PAYMENT_URL", "STOCK_URL")
        )

    def wait_time(self):
        return self.wait(self)

    # The calls.

    def call(self, method, url, name, wanted=range(200, 300)):
        """One call; its status and its JSON, where it has some. Any status but those wanted is a failure."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        for number in range(TRIES):
            with self.client.request(method, url, name=name, headers=headers, catch_response=True) as answer:
                status = answer.status_code
                if status in wanted:
                    answer.success()
                elif status:
                    answer.failure(f"answered {status}")
                elif number + 1 < TRIES:
                    answer.request_meta["name"] = f"{name} (broken, repeated)"
                    answer.success()
                else:
                    answer.failure(f"no answer: {type(answer.error).__name__}")
                is_json = "application/json" in (answer.headers or {}).get("content-type", "")
                body = json.loads(answer.text) if is_json else None
            if status:
                break
            gevent.sleep(PAUSE_SECONDS * 2**number)
        return status, body

    def made(self, url, name):
        """The id of what a POST has made; none when it failed."""
        body = self.call("POST", url, name)[1]
        return next(iter(body.values())) if body else None

    def check_out(self, order, wanted, name=FRESH):
        return self.call("POST", f"{self.order}/orders/checkout/{order}", name, wanted)[0]

    def anybody(self):
        return random.randrange(self.filled)

    # What people do.

    @task(20)
    def buy(self):
        order = ORDERS.take()
        if order is None:
            self.shop_from_the_start()
        elif self.check_out(order, ANSWERS) == 200:
            ORDERS.bought.append(order)

    @task(2)
    def buy_the_same_again(self):
        if ORDERS.bought:
            # Paid is paid: it may not be refused any more.
            self.check_out(random.choice(ORDERS.bought), (200,), REPEATED)

    @task(4)
    def shop_from_the_start(self):
        user = self.made(f"{self.payment}/payment/create_user", "POST /payment/create_user")
        funds = f"{self.payment}/payment/add_funds/{user}/100"
        if user is None or self.call("POST", funds, "POST /payment/add_funds/[user]/[amount]")[0] != 200:
            return
        order = self.order_of(user)
        if order is not None and self.check_out(order, ANSWERS) == 200:
            self.expect(f"{self.order}/orders/find/{order}", "GET /orders/find/[order]", "paid", True)

    @task(6)
    def look_around(self):
        number = self.anybody()
        self.call("GET", f"{self.stock}/stock/find/{number}", "GET /stock/find/[item]")
        self.call("GET", f"{self.payment}/payment/find_user/{number}", "GET /payment/find_user/[user]")
        self.call("GET", f"{self.order}/orders/find/{number}", "GET /orders/find/[order]")

    @task(1)
    def buy_without_money(self):
        user = self.made(f"{self.payment}/payment/create_user", "POST /payment/create_user")
        order = self.order_of(user) if user is not None else None
        if order is not None:
            self.check_out(order, (409,), "POST /orders/checkout/[order] (broke)")
            self.expect(f"{self.order}/orders/find/{order}", "GET /orders/find/[order]", "paid", False)

    def check_out_anything(self):
        """The course's checkout: any filled order, whether it was bought before or not."""
        bought = len(ORDERS.bought)
        if random.randrange(bought + len(ORDERS.fresh) or 1) < bought:
            self.buy_the_same_again()
        elif ORDERS.fresh:
            self.buy()

    # Pieces of it.

    def order_of(self, user):
        """An order of two items; none when it could not be made."""
        order = self.made(f"{self.order}/orders/create/{user}", "POST /orders/create/[user]")
        if order is None:
            return None
        for _ in range(2):
            line = f"{self.order}/orders/addItem/{order}/{self.anybody()}/1"
            if self.call("POST", line, "POST /orders/addItem/[order]/[item]/[quantity]")[0] != 200:
                return None
        return order

    def expect(self, url, name, field, value):
        """Reads back what an answer has promised."""
        with self.client.get(url, name=name, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"answered {answer.status_code}")
            elif json.loads(answer.text)[field] != value:
                answer.failure(f"{field} is not {value}: it contradicts the reply before")
            else:
                answer.success()
