"""All entry points of a shop, for simultaneous callers."""

import asyncio
import collections
import contextlib
import dataclasses
import random
import subprocess
import uuid

import aiohttp
import grpc

from loyalty import stubs
from shop.client import Client
from shop.process import binary

# Calls of one moment begin within this time.
SPREAD_SECONDS = 0.015
ANSWER_SECONDS = 60.0
# A vote lasts about two seconds before others may resolve its transaction; then they must.
SETTLE_SECONDS = 10.0
# What the error details of a gRPC answer may contain.
REASONS = [
    "ORDER_MODIFIED", "OUT_OF_STOCK", "OUT_OF_CREDIT", "EMPTY_ORDER", "ALREADY_PAID", "REQUEST_ID_REUSED",
    "ORDER_NOT_FOUND", "UNKNOWN_USER", "UNKNOWN_ITEM", "OUTCOME_UNKNOWN", "OVERFLOW",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TimedAnswer:
    """The answer that a caller got, and when its call began and ended."""

    reason: str
    text: str
    began: float
    ended: float
    # True if this very call bought the order; only gRPC says so.
    bought: bool = False
    # Of an answer by REST.
    status: int = 0

    @property
    def ok(self):
        return self.reason == ""

    def meets(self, other):
        """Whether both calls were under way at the same time."""
        return self.began < other.ended and other.began < self.ended


def quoted(headers):
    """The token in an ETag."""
    return headers["etag"].strip('"')


class EntryPoints:
    """Both bridges and both coordinators. `sure`: processes are killed meanwhile, so every call has a key and is
    repeated until its answer is definite. Without it, an answer that is not definite is an error."""

    def __init__(self, shop, seed, sure=False):
        self.shop = shop
        self.rng = random.Random(seed)
        self.sure = sure
        self.counts = collections.Counter()
        self.messages, self._services = stubs.load()

    async def __aenter__(self):
        self._stack = contextlib.AsyncExitStack()
        self.bridges = []
        for url in self.shop.urls:
            client = Client(url, connections=400, timeout_seconds=ANSWER_SECONDS)
            self.bridges.append(await self._stack.enter_async_context(client))
        coordinator = self._services["coordinator"]
        self.coordinators, self.planners = [], []
        for replica in range(self.shop.replicas):
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.shop.ports.grpc + replica}")
            await self._stack.enter_async_context(channel)
            self.coordinators.append(coordinator.CoordinatorServiceStub(channel))
            self.planners.append(coordinator.TransactionServiceStub(channel))
        return self

    async def __aexit__(self, *_):
        await self._stack.aclose()

    @property
    def bridge(self):
        return self.rng.choice(self.bridges)

    def key(self):
        return str(uuid.uuid4())

    async def _soon(self, late=0.0):
        await asyncio.sleep(late + self.rng.uniform(0, SPREAD_SECONDS))

    async def call(self, method, path, *, key=None, token=None, late=0.0):
        """One call by REST at any bridge, soon or `late` seconds later. If `sure`, it is repeated until its answer is
        definite."""
        headers = {} if token is None else {"If-Match": f'"{token}"'}
        if key is None and (self.sure or self.rng.random() < 0.5):
            key = self.key()
        if key is not None:
            headers["Idempotency-Key"] = key
        await self._soon(late)
        began = asyncio.get_running_loop().time()
        while True:
            try:
                reply = await self.bridge.call(method, path, headers=headers)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                assert self.sure, f"{path}: {error!r}"
            else:
                if reply.ok or (reply.refused and reply.status != 429):
                    break
                assert self.sure and reply.status in (429, 503), f"{path}: {reply}"
            await asyncio.sleep(0.05)
        ended = asyncio.get_running_loop().time()
        return TimedAnswer("" if reply.ok else reply.reason, reply.text, began, ended, status=reply.status)

    async def post(self, path, **options):
        return await self.call("POST", path, **options)

    async def delete(self, path, **options):
        return await self.call("DELETE", path, **options)

    async def checkout(self, order, **options):
        """Checks out at any entry point."""
        by_grpc = not options and self.rng.random() < 0.4
        return await (self.ask(order) if by_grpc else self.post(f"/orders/checkout/{order}", **options))

    async def confirm(self, order, token, late=0.0):
        """Checks out what was seen, at any entry point."""
        if self.rng.random() < 0.4:
            return await self.ask(order, if_match=[token], late=late)
        told = await self.post(f"/orders/checkout/{order}", token=token, late=late)
        assert (told.status == 412) == (told.reason == "ORDER_MODIFIED"), told
        return told

    async def ask(self, order, *, request_id=None, if_match=(), replica=None, late=0.0):
        """Checks out at a coordinator, soon."""
        if request_id is None:
            request_id = self.key() if self.sure or self.rng.random() < 0.5 else ""
        checkout = self.messages["coordinator"].CheckoutRequest
        request = checkout(order_id=order, request_id=request_id, if_match=if_match)
        await self._soon(late)
        began = asyncio.get_running_loop().time()
        while True:
            stub = self.rng.choice(self.coordinators) if replica is None else self.coordinators[replica]
            try:
                reply = await stub.Checkout(request, timeout=ANSWER_SECONDS)
                reason, bought = "", not reply.already_paid
                break
            except grpc.aio.AioRpcError as error:
                reason, bought = _reason(error), False
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    break
                assert self.sure, f"{order}: {error!r}"
            await asyncio.sleep(0.05)
        return TimedAnswer(reason, "", began, asyncio.get_running_loop().time(), bought)

    # Things to race for; nothing races while they are made.

    async def new_item(self, price, stock=0):
        return await self.bridge.new_item(price, stock)

    async def new_cart(self, credit, *lines):
        """A user and an order of (item, quantity) lines."""
        user = await self.bridge.new_user(credit)
        return user, await self.bridge.new_order(user, *lines)

    async def seen(self, order):
        """The order as a shopper sees it, and its token."""
        reply = await self.bridge.get(f"/orders/find/{order}")
        assert reply.ok, reply
        return reply.json(), quoted(reply.headers)

    # What must be so afterwards.

    async def has(self, user, credit):
        await self._become(lambda: self.bridge.credit(user), credit)

    async def holds(self, item, stock):
        await self._become(lambda: self.bridge.stock(item), stock)

    async def _become(self, read, expected):
        """Waits until a read returns what is expected: at once, or, if processes are killed, when their holds are
        released."""
        until = asyncio.get_running_loop().time() + (SETTLE_SECONDS if self.sure else 0)
        while (found := await read()) != expected:
            assert asyncio.get_running_loop().time() < until, f"{found} instead of {expected}"
            await asyncio.sleep(0.1)

    def audit(self, *flags):
        """`till audit` finds nothing."""
        command = [str(binary()), "audit", *flags, "--pd-endpoints", f"127.0.0.1:{self.shop.ports.kv}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def _reason(error):
    """Our reason in a gRPC error; its code where there is none."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    found = [reason for reason in REASONS if reason.encode() in details]
    return found[0] if found else error.code().name
