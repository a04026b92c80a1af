"""A misbehaving proxy: it closes connections before the answer is complete, and sends POSTs twice, as real proxies do
when they take a request for lost."""

import asyncio
import random


class Proxy:
    """A proxy in front of one bridge. It speaks HTTP/1.1 and frames bodies by Content-Length only, as the clients here
    do."""

    def __init__(self, port, seed=0, cut=0.05, twice=0.2):
        self._port = port
        self._rng = random.Random(f"proxy-{seed}")
        self._cut, self._twice = cut, twice
        self._server = None
        self.repeated = 0
        self.cut = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        try:
            while request := await _message(reader):
                answer = self._forward(request)
                if request.startswith(b"POST") and self._rng.random() < self._twice:
                    # The copy may overtake, and whichever answer comes last is the one that is passed on.
                    self.repeated += 1
                    _, answered = await asyncio.gather(answer, self._forward(request))
                else:
                    answered = await answer
                if self._rng.random() < self._cut:
                    self.cut += 1
                    writer.write(answered[: len(answered) // 2])
                    await writer.drain()
                    return
                writer.write(answered)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _forward(self, request):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(request)
            await writer.drain()
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader):
    """One request or response, as bytes; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return b""
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)
