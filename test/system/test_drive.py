"""The buyers of `cargo xtask live` repeat reads whose connection is refused, and nothing else."""

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web

from live.drive import Patient


async def answer(_request):
    return web.json_response({})


async def serve(port):
    app = web.Application()
    app.router.add_get("/orders/find/0", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_refused_read_is_repeated_and_counted():
    async def run():
        port = free_port()
        async with Patient(f"http://127.0.0.1:{port}") as client:
            read = asyncio.create_task(client.get("/orders/find/0"))
            await asyncio.sleep(0.3)
            runner = await serve(port)
            try:
                assert (await read).ok
                assert client.repeated > 0
                repeated = client.repeated
                assert (await client.get("/orders/find/0")).ok
                assert client.repeated == repeated
            finally:
                await runner.cleanup()

    asyncio.run(run())


def test_a_refused_change_is_not_repeated():
    async def run():
        async with Patient(f"http://127.0.0.1:{free_port()}") as client:
            with pytest.raises(aiohttp.ClientConnectorError):
                await client.post("/stock/add/0/1")
            assert client.repeated == 0

    asyncio.run(run())
