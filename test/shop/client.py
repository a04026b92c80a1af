"""A REST client that checks every answer against the published contract."""

import dataclasses
import json

import aiohttp
from yarl import URL


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: dict
    text: str

    @property
    def ok(self):
        return 200 <= self.status < 300

    @property
    def refused(self):
        return 400 <= self.status < 500

    @property
    def reason(self):
        """The stable reason of a problem body."""
        return self.json()["reason"]

    def json(self):
        return json.loads(self.text)


class Client:
    """Calls one bridge. With a contract, an answer that does not match it is an assertion error."""

    def __init__(self, url, contract=None, connections=100, timeout_seconds=60.0):
        self.url = url
        self.contract = contract
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session = None

    async def __aenter__(self):
        connector = aiohttp.TCPConnector(limit=self._connections)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        return self

    async def __aexit__(self, *_):
        await self._session.close()

    async def call(self, method, path, *, published=True, **options):
        """One call; the path goes out as it is written, percent signs and all. `published=False` for paths
        that the contract does not know."""
        async with self._session.request(method, URL(self.url + path, encoded=True), **options) as answer:
            text = await answer.text()
            reply = Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, text)
        if self.contract is not None and published:
            kind = reply.headers.get("content-type", "")
            problems = self.contract.problems(method, path, reply.status, kind, text)
            assert problems is not None, f"{method} {path} is not published"
            assert not problems, f"{method} {path} -> {reply.status} {text[:300]!r}: {problems}"
        return reply

    async def get(self, path, **options):
        return await self.call("GET", path, **options)

    async def post(self, path, *, key=None, **options):
        """A POST; `key` is its Idempotency-Key."""
        if key is not None:
            options["headers"] = {**options.get("headers", {}), "Idempotency-Key": key}
        return await self.call("POST", path, **options)

    async def delete(self, path, *, key=None, **options):
        if key is not None:
            options["headers"] = {**options.get("headers", {}), "Idempotency-Key": key}
        return await self.call("DELETE", path, **options)

    # The shop's verbs, each of which must succeed.

    async def new_item(self, price, stock=0):
        item = (await self._must(self.post(f"/stock/item/create/{price}"))).json()["item_id"]
        if stock:
            await self._must(self.post(f"/stock/add/{item}/{stock}"))
        return item

    async def new_user(self, credit=0):
        user = (await self._must(self.post("/payment/create_user"))).json()["user_id"]
        if credit:
            await self._must(self.post(f"/payment/add_funds/{user}/{credit}"))
        return user

    async def new_order(self, user, *lines):
        """An order of (item, quantity) lines."""
        order = (await self._must(self.post(f"/orders/create/{user}"))).json()["order_id"]
        for item, quantity in lines:
            await self._must(self.post(f"/orders/addItem/{order}/{item}/{quantity}"))
        return order

    async def checkout(self, order, **options):
        return await self.post(f"/orders/checkout/{order}", **options)

    async def order(self, order):
        return (await self._must(self.get(f"/orders/find/{order}"))).json()

    async def stock(self, item):
        return (await self._must(self.get(f"/stock/find/{item}"))).json()["stock"]

    async def credit(self, user):
        return (await self._must(self.get(f"/payment/find_user/{user}"))).json()["credit"]

    async def fill(self, *, items, stock, price, users, credit, orders=0):
        """Overwrites items, users and orders "0", "1", ..."""
        await self._must(self.post(f"/stock/batch_init/{items}/{stock}/{price}"))
        await self._must(self.post(f"/payment/batch_init/{users}/{credit}"))
        await self._must(self.post(f"/orders/batch_init/{orders}/{items}/{users}/{price}"))

    @staticmethod
    async def _must(call):
        reply = await call
        assert reply.ok, f"{reply.status}: {reply.text}"
        return reply
