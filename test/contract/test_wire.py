"""Connections, headers and bodies as the clients of the course send them."""

import asyncio
import contextlib
import json
import socket
import time

import pytest

from shop.wire import Connection

EMPTY_BINARY = ["Content-Type: application/octet-stream"]


async def test_one_connection_serves_many_calls(shop):
    async with Connection("127.0.0.1", shop.ports.http) as connection:
        for _ in range(200):
            status, headers, _ = await connection.call("POST", "/payment/create_user", EMPTY_BINARY)
            assert status == 200
            assert headers.get("connection", "keep-alive").lower() == "keep-alive"


async def test_an_empty_body_of_any_type_is_no_body(shop):
    async with Connection("127.0.0.1", shop.ports.http) as connection:
        for kind in (EMPTY_BINARY, [], ["Content-Type: application/json"], ["Content-Type: nonsense"]):
            status, headers, body = await connection.call("POST", "/stock/item/create/1", kind)
            assert status == 200
            assert headers["content-type"].startswith("application/json")
            assert json.loads(body)["item_id"]


async def test_calls_sent_ahead_are_answered_in_turn(shop):
    async with Connection("127.0.0.1", shop.ports.http) as connection:
        for price in range(20):
            await connection.send("POST", f"/stock/item/create/{price}")
        items = []
        for _ in range(20):
            status, _, body = await connection.receive()
            assert status == 200
            items.append(json.loads(body)["item_id"])
        for price, item in enumerate(items):
            _, _, body = await connection.call("GET", f"/stock/find/{item}")
            assert json.loads(body)["price"] == price


async def test_a_body_that_is_too_large_is_refused(api):
    user = await api.new_user()
    reply = await api.post(f"/payment/add_funds/{user}/1", data=b"x" * (64 * 1024 + 1))
    assert reply.status == 413
    assert reply.headers["content-type"].startswith("application/problem+json")
    assert await api.credit(user) == 0
    assert (await api.post(f"/payment/add_funds/{user}/1", data=b"x" * 1024)).ok


async def test_both_families_are_served(shop):
    hosts = ["127.0.0.1"]
    if socket.has_ipv6:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
            hosts.append("::1")
        except OSError:
            print("this host has no IPv6")
    for host in hosts:
        async with Connection(host, shop.ports.http) as connection:
            status, _, _ = await connection.call("POST", "/payment/create_user")
            assert status == 200


async def test_a_thousand_calls_wait_on_a_hundred_connections(api):
    replies = await asyncio.gather(*(api.post("/payment/create_user") for _ in range(1000)))
    assert all(reply.ok for reply in replies)
    assert len({reply.json()["user_id"] for reply in replies}) == 1000


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST " + b"a" * 100_000])
async def test_junk_hurts_nobody_else(shop, api, junk):
    reader, writer = await asyncio.open_connection("127.0.0.1", shop.ports.http)
    try:
        writer.write(junk)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
    except TimeoutError:
        pytest.fail("the bridge goes on listening to junk")
    except OSError:
        pass  # The bridge may end the connection while some of it is on its way.
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    assert (await api.post("/payment/create_user")).ok


async def test_a_connection_left_idle_is_still_there(idle):
    """aiohttp aborts a whole run on one dropped connection; its own patience is 75 s at most."""
    connection, last_used = idle
    await asyncio.sleep(max(0.0, 76 - (time.monotonic() - last_used)))
    status, _, _ = await connection.call("POST", "/payment/create_user")
    assert status == 200
