"""`till up` as a person meets it: starting, being refused, stopping."""

import asyncio
import os
import signal
import socket
import subprocess
import time

import aiohttp

from conftest import running_shop
from shop.client import Client
from shop.process import Shop, alive, binary, wait_until


def refused(shop):
    """Starts what cannot start; gives what it says."""
    ended = subprocess.run(shop.command(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1, ended
    assert "panicked" not in ended.stderr
    return ended.stderr


def test_a_second_shop_in_the_same_directory_is_refused():
    with running_shop(1) as shop:
        before = shop.status()
        second = Shop(shop.data_dir, flags=["--fresh"])
        said = refused(second)
        assert str(shop.data_dir) in said and "in use" in said
        assert shop.status() == before


def test_a_taken_port_is_named(tmp_path):
    for flag in ("http", "kv", "grpc"):
        shop = Shop(tmp_path / flag)
        port = getattr(shop.ports, flag)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
            said = refused(shop)
        assert f"port {port} is taken" in said, said
        assert shop.status() is None or not any(map(alive, shop.pids()))


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    said = refused(Shop(tmp_path, flags=["--fresh"]))
    assert "not a till data directory" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_usage_errors_and_failures_have_exit_codes_of_their_own():
    for arguments, code in ((["--no-such-flag"], 64), (["up", "--replicas", "0"], 64), (["--help"], 0)):
        ended = subprocess.run([binary(), *arguments], capture_output=True, timeout=30)
        assert ended.returncode == code, (arguments, ended)


def test_it_is_ready_in_time_stops_in_order_and_keeps_its_data():
    with running_shop(1) as shop:
        pids = shop.pids()
        begun = time.monotonic()
        assert shop.stop() == 0
        assert time.monotonic() - begun < 15
        assert not any(map(alive, pids))
        begun = time.monotonic()
        shop.start()
        assert time.monotonic() - begun < 10, "ready within 10 s"
        text = shop.log.read_text(errors="replace")
        for wanted in (f"http://localhost:{shop.ports.http}", str(shop.data_dir), str(shop.ports.kv), "curl"):
            assert wanted in text, wanted


def test_ctrl_c_twice_ends_it_at_once():
    with running_shop(1) as shop:
        pids = shop.pids()
        # A frozen role cannot drain: the first signal waits for it, the second does not.
        os.kill(shop.children("order")["order-0"]["pid"], signal.SIGSTOP)
        shop.process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert shop.process.poll() is None
        shop.process.send_signal(signal.SIGINT)
        shop.process.wait(5)
        wait_until("all are gone", lambda: not any(map(alive, pids)), 5)
        shop.log.write_text("")


def test_no_child_outlives_its_supervisor_not_even_a_frozen_one():
    with running_shop(2) as shop:
        pids = shop.pids()
        frozen = shop.children("stock")["stock-1"]["pid"]
        os.kill(frozen, signal.SIGSTOP)
        shop.process.kill()
        shop.process.wait()
        wait_until("all but the frozen one are gone", lambda: not any(alive(p) for p in pids if p != frozen), 5)
        os.kill(frozen, signal.SIGCONT)
        wait_until("the frozen one is gone", lambda: not alive(frozen), 5)


async def test_rest_answers_503_until_the_shop_is_ready():
    with running_shop(1, start=False) as shop:
        shop.start(wait_seconds=0)
        seen = set()
        async with aiohttp.ClientSession() as session:
            for _ in range(600):
                try:
                    async with session.post(f"{shop.url}/payment/create_user") as reply:
                        seen.add(reply.status)
                        if reply.status == 200:
                            break
                        assert reply.status == 503, await reply.text()
                        assert int(reply.headers["Retry-After"]) >= 1
                except aiohttp.ClientConnectorError:
                    pass
                await asyncio.sleep(0.02)
        assert 200 in seen
        shop.wait_ready()


async def test_what_was_begun_is_answered_before_the_end():
    with running_shop(1) as shop:
        async with Client(shop.url) as client:
            item = await client.new_item(1, 10_000)
            user = await client.new_user(10_000)
            orders = [await client.new_order(user, (item, 1)) for _ in range(50)]
            told_to_stop = None
            answered = []

            async def buyer(order):
                while True:
                    begun = time.monotonic()
                    try:
                        reply = await client.checkout(order)
                    except (aiohttp.ClientError, OSError):
                        # The door is closed: only what knocks afterwards finds it so.
                        assert told_to_stop is not None and begun > told_to_stop
                        return
                    answered.append(reply.status)

            buyers = [asyncio.create_task(buyer(order)) for order in orders]
            await asyncio.sleep(0.5)
            shop.process.send_signal(signal.SIGTERM)
            told_to_stop = time.monotonic()
            await asyncio.to_thread(shop.process.wait, 60)
            await asyncio.gather(*buyers)
            assert len(answered) > 50 and set(answered) <= {200, 503}, set(answered)


async def test_a_frozen_role_delays_and_breaks_nothing():
    """Stopped for longer than a vote may take, then resumed."""
    with running_shop(2) as shop:
        async with Client(shop.url) as client:
            item, user = await client.new_item(1, 100), await client.new_user(100)
            orders = [await client.new_order(user, (item, 1)) for _ in range(20)]
            for name in ("stock-0", "coordinator-0"):
                pid = shop.children()[name]["pid"]
                os.kill(pid, signal.SIGSTOP)
                buying = asyncio.gather(*(client.checkout(order) for order in orders))
                await asyncio.sleep(4)
                os.kill(pid, signal.SIGCONT)
                assert {reply.status for reply in await buying} == {200}
            assert (await client.stock(item), await client.credit(user)) == (80, 80)


def test_health_tells_by_its_exit_code():
    with running_shop(1) as shop:

        def health(*arguments):
            return subprocess.run([binary(), "health", *arguments], capture_output=True, timeout=30).returncode

        grpc = f"127.0.0.1:{shop.ports.grpc + 100}"
        assert health("--endpoint", grpc) == 0
        assert health("--endpoint", f"127.0.0.1:{shop.ports.http}", "--http") == 0
        assert shop.stop() == 0
        assert health("--endpoint", grpc) == 1
        assert health("--endpoint", f"127.0.0.1:{shop.ports.http}", "--http") == 1
