"""`pomerium-agent connect`: a local port for a TCP or a UDP route."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pomerium_agent.errors import SettingsError

if TYPE_CHECKING:
    import asyncio
    import ssl

    from pomerium_agent.cli.tunnel import Door


def connect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="host:port as in the route's `from`, or udp://host:port; tcp+https://FRONT/host:port behind a front.",
        ),
    ],
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where to listen; port 0 finds a free one.")
    ] = "127.0.0.1:0",
    proxy: Annotated[
        str,
        typer.Option(metavar="URL", help="Where the replica is, when not at https://HOST.", show_default=False),
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS:PORT", help="Where the proxy is found, when its name does not say.", show_default=False
        ),
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with a service account's token, or a session's.", show_default=False),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The CA to trust instead of the system's, PEM.", show_default=False)
    ] = None,
    idle: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="When a UDP flow that carries nothing ends.")
    ] = 120.0,
) -> None:
    """Give a TCP or a UDP route a port on this machine, for any client: psql, redis-cli, ssh, dig. Ends with Ctrl-C.

    Each connection to the port is one tunnel, which the replica authorizes by itself; of a UDP route, each socket.
    """
    import asyncio

    from pomerium_agent.cli.tunnel import NO_TOKEN, checked_token, find_door, read_place

    try:
        token = checked_token(token_file.read_text("ascii")) if token_file else NO_TOKEN
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"--token-file: {token_file} cannot be read as text") from None
    found = read_place("--at", at) if at else None
    door = find_door(target, proxy=proxy, at=found, token=token)
    place = read_place("--listen", listen)
    if door.kind == "udp":
        from pomerium_agent.cli.udp_tunnel import serve_udp

        asyncio.run(serve_udp(door, place, _trust(ca, "h2"), idle))
    else:
        asyncio.run(_serve(door, place, _trust(ca, "http/1.1")))


def _trust(ca: Path | None, protocol: str) -> "ssl.SSLContext":
    import ssl

    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError:
        raise SettingsError(f"--ca: {ca} holds no certificate that can be read") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    return context


async def _serve(door: "Door", place: tuple[str, int], trust: "ssl.SSLContext") -> None:
    """Listen until a signal comes. What is open then is cut."""
    import asyncio
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = group.create_task(_carry(reader, writer, door, trust))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        try:
            server = await asyncio.start_server(accept, *place)
        except OSError as error:
            raise SettingsError(f"--listen: {place[0]}:{place[1]} cannot be had: {error.strerror}") from None
        host, port = server.sockets[0].getsockname()[:2]
        print(f"{f'[{host}]' if ':' in host else host}:{port} leads to {door.target}", flush=True)
        await stop.wait()
        server.close()
        for task in tasks:
            task.cancel()


async def _carry(
    reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter", door: "Door", trust: "ssl.SSLContext"
) -> None:
    """One connection: what goes wrong with it is said, and ends nobody else's."""
    import sys

    from pomerium_agent.cli.tunnel import NotLetThrough, join, open_tunnel

    try:
        far = await open_tunnel(door, trust)
        try:
            await join((reader, writer), far)
        finally:
            far[1].transport.abort()
    except NotLetThrough as refused:
        print(refused, file=sys.stderr, flush=True)
    finally:
        writer.close()
