"""A participant in another language takes part in checkouts while processes are killed."""

import asyncio
import json
import pathlib
import signal
import subprocess
import sys
import time

import grpc

from conftest import running_shop
from loyalty.book import Book
from shop.client import Client
from shop.load import Market
from shop.process import binary

TEST = pathlib.Path(__file__).resolve().parent.parent
# A vote lasts about two seconds before others may resolve its transaction; then they must.
SETTLE_SECONDS = 15.0
BLOCKED = "3"


class Loyalty:
    """The service as a process."""

    def __init__(self, directory, port, coordinator):
        self.address = f"127.0.0.1:{port}"
        self.data = pathlib.Path(directory) / "points.db"
        self.log = pathlib.Path(directory) / "loyalty.log"
        self.command = [
            sys.executable, "-m", "loyalty.service", "--listen", self.address,
            "--coordinator", coordinator, "--data", str(self.data), "--block", BLOCKED,
        ]  # fmt: skip
        self.process = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=TEST, stdout=log, stderr=log)
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        return self

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(timeout=20)

    def restart(self):
        self.kill()
        self.start()


async def test_points_agree_with_paid_orders_under_kills_of_every_role(tmp_path):
    with running_shop(1, start=False) as shop:
        port = shop.ports.kv + 1
        service = Loyalty(tmp_path, port, f"127.0.0.1:{shop.ports.grpc}")
        shop.flags += ["--participant", f"loyalty={service.address}", "--checkout-participant", "loyalty"]
        service.start()
        try:
            shop.start()
            await _buy_and_kill(shop, service)
        finally:
            service.kill(signal.SIGTERM)
        assert service.process.returncode == 0


async def _buy_and_kill(shop, service):
    sold = Market(items=20, stock=60, users=40, credit=30, orders=500)
    async with Client(shop.url) as client:
        await sold.fill(client)
        refused = next(order for order in sold.contents.values() if order["user_id"] == BLOCKED)
        reply = await client.checkout(refused["order_id"])
        assert reply.refused, reply
        buying = asyncio.create_task(sold.buy(client, seconds=7.0, seed="loyalty"))
        await asyncio.sleep(1.0)
        await asyncio.to_thread(service.restart)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(shop.kill, "coordinator-0")
        await asyncio.sleep(1.0)
        await asyncio.to_thread(service.restart)
        await buying
        paid = await sold.audit(client, SETTLE_SECONDS)
        assert paid > 20, sold.answers
        due = {}
        for number in range(sold.orders):
            order = await client.order(number)
            if order["paid"]:
                assert order["user_id"] != BLOCKED
                due[order["user_id"]] = due.get(order["user_id"], 0) + order["total_cost"]
    await _points_become(service, due)
    await asyncio.to_thread(_books_agree, shop)


async def _points_become(service, due):
    """Waits, because a killed service learns of outcomes late."""
    book = Book(service.data)
    until = time.monotonic() + SETTLE_SECONDS
    while (points := book.points()) != due:
        assert time.monotonic() < until, {
            user: (points.get(user, 0), due.get(user, 0))
            for user in points.keys() | due.keys()
            if points.get(user, 0) != due.get(user, 0)
        }
        await asyncio.sleep(0.2)


def _books_agree(shop):
    """Waits until nothing is unresolved, then checks that the audit is clean."""
    till, store = str(binary()), f"127.0.0.1:{shop.ports.kv}"
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        audit = subprocess.run(
            [till, "audit", "--quiet", "--pd-endpoints", store], capture_output=True, text=True, timeout=60
        )
        if audit.returncode == 0:
            break
        assert time.monotonic() < until, audit.stdout + audit.stderr
        time.sleep(0.5)
    listed = subprocess.run(
        [till, "tx", "list", "--unresolved", "--coordinator", f"127.0.0.1:{shop.ports.grpc}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr


def test_the_conformance_kit_passes_a_good_participant_and_fails_a_bad_one(tmp_path):
    from loyalty import stubs

    messages, _ = stubs.load()
    order = messages["coordinator"].CheckoutPayload(order_id="o", user_id="u", total_cost=5)
    payload = tmp_path / "payload.bin"
    payload.write_bytes(order.SerializeToString())
    with running_shop(1) as shop:
        service = Loyalty(tmp_path, shop.ports.kv + 1, f"127.0.0.1:{shop.ports.grpc}").start()
        pid = tmp_path / "pid"
        pid.write_text(str(service.process.pid))
        # The kit's own shell kills it and starts it again.
        start = f"cd {TEST} && exec {' '.join(service.command)}"
        restart = f"kill -9 $(cat {pid}); ({start} >>{service.log} 2>&1) & echo $! >{pid}"
        check = [str(binary()), "participant", "check", service.address]
        try:
            good = subprocess.run(
                [*check, "--payload-file", payload, "--restart-command", restart],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert good.returncode == 0, good.stdout + good.stderr
            assert "16 passed, 0 failed" in good.stdout, good.stdout
            # As a primary it does not ask for evidence, and it says so nowhere.
            bad = subprocess.run(
                [*check, "--payload-file", payload, "--primary"], capture_output=True, text=True, timeout=60
            )
            assert bad.returncode == 2, bad.stdout + bad.stderr
            assert "FAILED   a primary aborts a YES on evidence only (rule 12)" in bad.stdout
            assert "3 failed" in bad.stdout, bad.stdout
        finally:
            subprocess.run(["kill", "-9", pid.read_text().strip()], check=False)
            service.process.wait(timeout=20)


async def test_the_conformance_kit_passes_our_own_services(tmp_path):
    with running_shop(1) as shop:
        async with Client(shop.url) as client:
            item, user = await client.new_item(1, 10), await client.new_user(10)
        order, stock, payment = (f"localhost:{shop.ports.grpc + offset}" for offset in (100, 200, 300))

        def check(*arguments):
            command = [str(binary()), "participant", "check", *arguments]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            return ended.returncode, ended.stdout + ended.stderr

        # Without a payload the kit says which payload it needs, and which checks it leaves out.
        for address, message in ((order, "LockOrder"), (stock, "HoldStock"), (payment, "HoldCredit")):
            code, said = await asyncio.to_thread(check, address)
            assert code == 0 and "9 passed, 0 failed, 10 not run" in said, said
            assert f"{message} here, for instance" in said and "--payload-json" in said, said
        for address, payload in (
            (stock, {"lines": [{"itemId": item, "quantity": "1"}]}),
            (payment, {"userId": user, "amount": "1"}),
        ):
            code, said = await asyncio.to_thread(
                check, address, "--payload-json", json.dumps(payload), "--primary"
            )
            assert code == 0 and "18 passed, 0 failed, 1 not run" in said, said
            assert "(rule 3)" in said, said
        # A payload that gets a NO cannot test votes.
        none = json.dumps({"userId": "nobody", "amount": "1"})
        code, said = await asyncio.to_thread(check, payment, "--payload-json", none)
        assert code == 1 and "votes NO" in said and "UNKNOWN_USER" in said, said
        code, said = await asyncio.to_thread(check, stock, "--payload-json", "{}", "--payload-file", "x")
        assert code == 64, said
        # What was held is given back, and what was committed is gone.
        async with Client(shop.url) as client:
            assert (await client.stock(item), await client.credit(user)) == (7, 7)
