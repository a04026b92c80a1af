"""HTTP/1.1 byte by byte, for what a client library would hide."""

import asyncio


class Connection:
    """One TCP connection, kept for as long as the server keeps it."""

    def __init__(self, host, port):
        self._host = host
        self._port = port

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_):
        self._writer.close()

    async def send(self, method, path, headers=(), body=b""):
        """Sends one request."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{self._port}", *headers]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self._writer.drain()

    async def receive(self):
        """One answer: status, headers, body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        headers = {}
        for line in head[1:]:
            if line:
                name, value = line.split(":", 1)
                headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._reader.readline(), 16):
                body += await self._reader.readexactly(size)
                await self._reader.readline()
            await self._reader.readline()
        else:
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, body.decode()

    async def call(self, method, path, headers=(), body=b""):
        await self.send(method, path, headers, body)
        return await self.receive()
