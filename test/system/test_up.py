"""`till up` as a user sees it: starting, refusing to start, stopping."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time

import aiohttp
import pytest

from conftest import running_shop
from shop.client import Client
from shop.process import Shop, alive, binary, wait_until


def refused(shop):
    """Starts a shop that cannot start; returns what it says."""
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


# Loopback of each family that this machine has: for sockets, and as it is written before a port.
FAMILIES = [(socket.AF_INET, "127.0.0.1", "127.0.0.1")]
with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
    probe.bind(("::1", 0))
    FAMILIES.append((socket.AF_INET6, "::1", "[::1]"))


# dev-kv has one address.
TAKEN = [
    (flag, family)
    for family in FAMILIES
    for flag in ("http", "kv", "grpc")
    if flag != "kv" or family[0] == socket.AF_INET
]


@pytest.mark.parametrize("flag,family", TAKEN, ids=lambda value: value if isinstance(value, str) else value[1])
def test_a_port_that_is_taken_in_either_family_is_named(tmp_path, flag, family):
    kind, host, shown = family
    shop = Shop(tmp_path / flag)
    port = getattr(shop.ports, flag)
    with socket.socket(kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen()
        said = refused(shop)
    assert f"port {port} is taken: another process listens on {shown}:{port}" in said, said
    assert shop.status() is None or not any(map(alive, shop.pids()))


def listeners(shop):
    """The (host, port) pairs on which each child says that it listens. Checks that each accepts a connection."""
    bound = {}
    for name, child in shop.children().items():
        bound[name] = [tuple(address.rsplit(":", 1)) for address in child["listen"]]
        for host, port in bound[name]:
            with socket.create_connection((host.strip("[]").replace("0.0.0.0", "127.0.0.1"), int(port)), timeout=5):
                pass
    return bound


def outer_address():
    """An address of this machine that others can reach; None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it only asks for the way.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return probe.getsockname()[0]


def test_it_listens_on_loopback_of_both_families_and_says_so():
    with running_shop(1) as shop:
        bound = listeners(shop)
        for name, addresses in bound.items():
            hosts = [host for host, _ in addresses]
            expected = [shown for _, _, shown in FAMILIES] if name != "dev-kv-0" else ["127.0.0.1"]
            assert hosts == expected, (name, hosts)
        # The shop may answer before `till up` has noticed that it does.
        said = "The shop is ready,"
        greeting = wait_until("the greeting", lambda: shop.log.read_text(errors="replace").partition(said)[2], 10)
        for name in ("http-bridge-0", "order-0", "stock-0", "payment-0", "coordinator-0"):
            addresses = " ".join(f"{host}:{port}" for host, port in bound[name])
            assert addresses in greeting, name
            log = (shop.data_dir / "logs" / f"{name}.log").read_text(errors="replace")
            assert any("listening" in line and addresses in line for line in log.splitlines()), (name, log)
        outer = outer_address()
        if outer is not None and not outer.startswith("127."):
            for name in bound:
                with pytest.raises(OSError), socket.create_connection((outer, int(bound[name][0][1])), timeout=5):
                    pass


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_rest_and_nothing_else_listens_for_others_when_told_to(by):
    flags, environment = (["--listen", "0.0.0.0"], {}) if by == "flag" else ([], {"TILL_LISTEN": "0.0.0.0"})
    with running_shop(1, flags=flags, environment=environment) as shop:
        bound = listeners(shop)
        assert bound["http-bridge-0"] == [("0.0.0.0", str(shop.ports.http))]
        for name in ("order-0", "stock-0", "payment-0", "coordinator-0", "dev-kv-0"):
            assert all(host in ("127.0.0.1", "[::1]") for host, _ in bound[name]), (name, bound[name])
        # The shop may answer before `till up` has noticed that it does.
        url = f"http://localhost:{shop.ports.http}"
        wait_until("the greeting", lambda: url in shop.log.read_text(errors="replace"), 10)


async def test_with_a_file_of_keys_changes_need_one(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef\n")
    for by in ("flag", "variable"):
        flags = ["--api-key-file", str(keys)] if by == "flag" else []
        environment = {"TILL_API_KEY_FILE": str(keys)} if by == "variable" else {}
        with running_shop(1, flags=flags, environment=environment) as shop:
            async with aiohttp.ClientSession() as session:
                async with session.post(f"{shop.url}/payment/create_user") as reply:
                    assert reply.status == 401, await reply.text()
                headers = {"Authorization": "Bearer 0123456789abcdef"}
                async with session.post(f"{shop.url}/payment/create_user", headers=headers) as reply:
                    assert reply.status == 200, await reply.text()


def test_a_file_of_keys_that_cannot_be_used_is_named(tmp_path):
    short = tmp_path / "short"
    short.write_text("short\n")
    for file in (short, tmp_path / "nowhere"):
        said = refused(Shop(tmp_path / "data", flags=["--api-key-file", str(file)]))
        assert "--api-key-file" in said and str(file) in said, said


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
    """It is stopped for longer than a vote may take, then resumed."""
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
