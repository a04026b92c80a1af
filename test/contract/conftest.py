"""Two clients, one at each replica of the REST face."""

import time

import pytest_asyncio

from shop.client import Client
from shop.wire import Connection


@pytest_asyncio.fixture(scope="session")
async def api(shop, contract):
    """A client of the first replica."""
    async with Client(shop.urls[0], contract) as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def other(shop, contract):
    """A client of the second replica."""
    async with Client(shop.urls[1], contract) as client:
        yield client


@pytest_asyncio.fixture(scope="session", autouse=True)
async def idle(shop):
    """A connection that is used once and then left alone, with the time of its last use."""
    async with Connection("127.0.0.1", shop.ports.http) as connection:
        await connection.call("POST", "/payment/create_user")
        yield connection, time.monotonic()
