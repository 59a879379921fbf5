"""The client's end of a TCP route: local connections, each carried by one HTTP CONNECT over TLS (routes 3.2, 6.2)."""

import asyncio
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Secret

REACH_SECONDS = 30.0  # to reach the proxy and hear what it says
LINGER_SECONDS = 5.0  # for what the other side still has to say; TLS cannot be closed in one direction only
MAX_HEAD = 65536
NO_TOKEN = Secret("")
_CHUNK = 65536
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]+")
_TARGET = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


class NotLetThrough(Exception):
    """The proxy opened no tunnel; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What is asked for, and of whom: `host` and `port` are the proxy's, and `at` is where it is found."""

    host: str
    port: int
    target: str
    token: Secret
    at: tuple[str, int]
    kind: str = "tcp"

    def request(self) -> bytes:
        lines = [f"CONNECT {self.target} HTTP/1.1", f"Host: {self.target}"]
        if self.token:
            lines.append(f"Authorization: Bearer Pomerium-{self.token}")
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def find_door(target: str, *, proxy: str = "", at: tuple[str, int] | None = None, token: Secret = NO_TOKEN) -> Door:
    """From `host:port`, or `tcp+https://front/host:port`; raises SettingsError with what to write instead.

    `udp+https://`, or `udp://` for short, is a door for datagrams.
    """
    kind = "udp" if target.startswith(("udp+https://", "udp://")) else "tcp"
    target = target.removeprefix(f"{kind}://")
    if target.startswith(f"{kind}+https://"):
        front, _, behind = target.removeprefix(f"{kind}+https://").rstrip("/").partition("/")
        if behind:
            target, proxy = behind, proxy or f"https://{front}"
        else:
            target = front
    target = checked_target(target)
    host, port = read_proxy(proxy or f"https://{target.rpartition(':')[0]}")
    return Door(host=host, port=port, target=target, token=token, at=at or (host, port), kind=kind)


def checked_target(text: str) -> str:
    """`host:port`, in lower case."""
    found = _TARGET.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise SettingsError(
            f"TARGET: {text!r} is not host:port; write what follows tcp+https:// or udp+https:// in the route's from"
        )
    return text.lower()


def read_proxy(url: str) -> tuple[str, int]:
    """Host and port of the proxy."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    else:
        if parts.scheme != "https" or parts.path.strip("/") or parts.query or "@" in parts.netloc:
            host = None
    if not host:
        raise SettingsError("--proxy: it is not https://host or https://host:port")
    return host, port or 443


def read_place(option: str, text: str) -> tuple[str, int]:
    """An address and a port."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise SettingsError(f"{option}: {text!r} is not address:port, such as 127.0.0.1:5432")
    return host.strip("[]"), int(port)


def checked_token(text: str) -> Secret:
    """A token without the white space around it; it goes into a header, so nothing else may be in it."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise SettingsError("--token-file: it holds no token; write the token alone into it")
    return Secret(token)


async def open_tunnel(door: Door, trust: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the target; raises NotLetThrough."""
    try:
        async with asyncio.timeout(REACH_SECONDS):
            reader, writer = await asyncio.open_connection(
                *door.at, ssl=trust, server_hostname=door.host, limit=MAX_HEAD
            )
            try:
                writer.write(door.request())
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                reason = refusal(head, door)
                if reason:
                    raise NotLetThrough(reason)
            except (
                BaseException
            ):  # also when cancelled: nobody else has the connection yet, so nobody else would close it
                writer.transport.abort()
                raise
            return reader, writer
    except TimeoutError:
        raise NotLetThrough(f"{door.host}:{door.port} does not answer") from None
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise NotLetThrough(f"{door.host}:{door.port} does not answer as a proxy would") from None
    except OSError as error:  # what TLS finds wrong is one, too
        raise NotLetThrough(f"{door.host}:{door.port} cannot be reached: {error}") from None


def refusal(head: bytes, door: Door) -> str:
    """Why the answer is not a tunnel; empty when it is."""
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
        return f"{door.host}:{door.port} does not answer as a proxy would"
    return refused(int(words[1]), door)


def refused(status: int, door: Door) -> str:
    """What a status says about the tunnel; empty when it is open."""
    if 200 <= status < 300:
        return ""
    if status in (301, 302, 303, 307, 401):
        return f"{door.target} wants to know who you are: give --token-file"
    if status == 403:
        return f"{door.target} does not let you in"
    if status == 404:
        return f"there is no {door.kind} route for {door.target}"
    return f"{door.target}: the proxy answers {status}"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes in one direction until they end, whoever ends them."""
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


async def join(
    near: tuple[asyncio.StreamReader, asyncio.StreamWriter], far: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Carry bytes both ways until either side has ended; the far side may finish its sentence."""
    async with asyncio.TaskGroup() as group:
        out = group.create_task(pump(near[0], far[1]))
        back = group.create_task(pump(far[0], near[1]))
        await asyncio.wait((out, back), return_when=asyncio.FIRST_COMPLETED)
        if not back.done():
            await asyncio.wait((back,), timeout=LINGER_SECONDS)
        out.cancel()
        back.cancel()
