"""`console serve`: the console as a process."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import DataDir, default_data_dir


def serve(
    data_dir: DataDir = None,
    address: Annotated[
        str, typer.Option(help="Where the cluster API listens; port 0 takes a free one.")
    ] = "127.0.0.1:8700",
    grpc_address: Annotated[str, typer.Option(help="Where Connect and OTLP listen.")] = "127.0.0.1:8701",
    public_url: Annotated[str, typer.Option(help="The API as replicas reach it, when that differs.")] = "",
    public_grpc_url: Annotated[str, typer.Option(help="Connect as replicas reach it, when that differs.")] = "",
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM) for both.", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).", show_default=False)] = None,
    plaintext: Annotated[
        bool, typer.Option(help="Allow other than loopback without TLS: a proxy in front ends it.")
    ] = False,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write one JSON object here when everything answers.", show_default=False)
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warn or error.")] = "info",
) -> None:
    """Serve replicas until stopped (SIGTERM, Ctrl-C)."""
    import asyncio
    import sys

    from pomerium_agent.console.server import Console, ServeOptions, serve_console
    from pomerium_agent.errors import SettingsError
    from pomerium_agent.runtime.log import LEVELS, configure_logging

    if log_level not in LEVELS:
        raise SettingsError(f"--log-level: {log_level!r} is not one of debug, info, warn, error")
    configure_logging(log_level, service="console")
    options = ServeOptions(
        data_dir=data_dir or default_data_dir(),
        address=address,
        grpc_address=grpc_address,
        public_url=public_url,
        public_grpc_url=public_grpc_url,
        tls_cert=tls_cert,
        tls_key=tls_key,
        plaintext=plaintext,
    )

    def say(console: Console) -> None:
        described = console.describe()
        if ready_file is not None:
            partial = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
            partial.write_text(json.dumps(described) + "\n")
            partial.replace(ready_file)  # whoever waits for it never reads half of it
        if sys.stdout.isatty():
            print(f"console serves {console.data_dir}")
            print(f"  cluster API    {console.cluster_api}\n  Connect, OTLP  {console.connect}")
        else:
            print(json.dumps({"event": "ready"} | described), flush=True)

    async def main() -> None:
        import signal

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with serve_console(options) as console:
            say(console)
            await stop.wait()

    asyncio.run(main())
