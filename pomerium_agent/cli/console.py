"""`pomerium-agent console …`: a control plane that anyone can host, and the verbs that feed it."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_backup import backup
from pomerium_agent.cli.console_login import login_app
from pomerium_agent.cli.console_options import AsJson, DataDir, default_data_dir, utc_now
from pomerium_agent.cli.console_places import hosts, set_address
from pomerium_agent.cli.console_rotation import end_overlap, print_token, rotate
from pomerium_agent.cli.console_telemetry import telemetry
from pomerium_agent.cli.exporting import export_cluster
from pomerium_agent.cli.plain import plain, plain_lines
from pomerium_agent.cli.service_accounts import service_account_app

console_app = typer.Typer(
    help="A control plane of your own: it hands configuration to replicas and hears how they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cluster_app = typer.Typer(help="Clusters: one token, one configuration, any number of replicas.", no_args_is_help=True)
console_app.add_typer(cluster_app, name="cluster")
console_app.add_typer(login_app, name="login")
console_app.add_typer(service_account_app, name="service-account")
console_app.command("backup")(backup)
console_app.command("export")(export_cluster)
console_app.command("hosts")(hosts)
console_app.command("telemetry")(telemetry)
cluster_app.command("set-address")(set_address)
cluster_app.command("rotate-token")(rotate)
cluster_app.command("end-overlap")(end_overlap)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.")]


@console_app.command()
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


@console_app.command()
def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="A Core configuration file, YAML or JSON.")],
    cluster: Annotated[str, typer.Option(help="The cluster's name.")],
    data_dir: DataDir = None,
    allow_faulty: Annotated[bool, typer.Option(help="Store what replicas will put into quarantine, too.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would change, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a file the configuration of a cluster: say what changes, and tell the replicas at once."""
    import sys

    from pomerium_agent.console.apply import apply_file
    from pomerium_agent.console.complaints import FileRefused
    from pomerium_agent.console.control import poke
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.words import applied_lines

    place = data_dir or default_data_dir()
    with open_store(place, create=False) as store:
        try:
            done = apply_file(store, cluster, file, now=utc_now(), allow_faulty=allow_faulty, dry_run=dry_run)
        except FileRefused as refused:
            if as_json:
                complaints = [each.to_json() for each in refused.complaints]
                print(json.dumps({"stored": False, "refused": complaints}, indent=2))
            raise
        told = poke(place, done.cluster.id) if done.stored else None
    if as_json:
        print(json.dumps(done.to_json() | {"console_told": told}, indent=2))
        return
    for each in done.warnings:
        print(f"warning: {each}", file=sys.stderr)
    for each in done.faults:
        print(f"FAULTY:  {each}", file=sys.stderr)
    for line in applied_lines(done, dry_run=dry_run, told=bool(told)):
        print(plain_lines(line))


@console_app.command()
def status(
    cluster: Annotated[str, typer.Option(help="Only this cluster.", show_default=False)] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say for each cluster which replicas there are, what each has in force, and what is wrong with it."""
    from pomerium_agent.console.control import ask
    from pomerium_agent.console.status import read_status
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.words import NOBODY_SERVES, status_lines

    place = data_dir or default_data_dir()
    runs = place.exists() and ask(place, {"op": "describe"}) is not None
    with open_store(place, create=False) as store:
        clusters = (store.cluster(cluster),) if cluster else store.clusters()
        found = [read_status(store, each, console_runs=runs, now=utc_now()) for each in clusters]
    if as_json:
        print(json.dumps({"console_runs": runs, "clusters": [each.to_json() for each in found]}, indent=2))
        return
    if not runs:
        print(f"{NOBODY_SERVES}: this is what was known last\n")
    for each in found:
        print("\n".join(map(plain, status_lines(each, utc_now()))))
    if not found:
        print("there are no clusters; create one with `console cluster create NAME`")


@cluster_app.command("create")
def create(
    name: Name,
    data_dir: DataDir = None,
    domain: Annotated[str, typer.Option(help="Its domain; made up when not given.", show_default=False)] = "",
    suffix: Annotated[
        str, typer.Option(help="What a made-up domain ends in. Names below localhost need no DNS.")
    ] = "pomerium.localhost",
    storage: Annotated[
        str, typer.Option(help="Where replicas keep records: postgres://…, file:///…, or memory.")
    ] = "memory",
    as_json: AsJson = False,
) -> None:
    """Create a cluster, and show its token. It is shown once: only its hash is kept."""
    from pomerium_agent.console.clusters import create_cluster, describe
    from pomerium_agent.console.endpoints import environment
    from pomerium_agent.console.store import open_store

    with open_store(data_dir or default_data_dir()) as store:
        made = create_cluster(store, name, now=utc_now(), domain=domain, suffix=suffix, storage=storage)
        facts, variables = describe(store, made.cluster, utc_now()), environment(store)
    if as_json:
        print(json.dumps(facts | variables | {"token": str(made.token)}, indent=2))
        return
    print(f"cluster {made.cluster.name} is made; its starter domain is {made.cluster.domain}")
    print(f"browsers and curl must trust {facts['ca_file']}\n")
    print_token(str(made.token), variables)


@cluster_app.command("list")
def list_clusters(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the clusters."""
    from pomerium_agent.console.clusters import describe
    from pomerium_agent.console.store import open_store

    with open_store(data_dir or default_data_dir(), create=False) as store:
        found = [describe(store, cluster, utc_now()) for cluster in store.clusters()]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for each in found:
        print(f"{each['name']}  {each['domain']}  version {each['version']}")


@cluster_app.command("show")
def show(name: Name, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show one cluster, without its secrets."""
    from pomerium_agent.console.clusters import describe
    from pomerium_agent.console.store import open_store

    with open_store(data_dir or default_data_dir(), create=False) as store:
        facts = describe(store, store.cluster(name), utc_now())
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key in ("name", "id", "organization_id", "domain", "version", "created_at", "storage", "ca_file"):
        print(f"{key.replace('_', ' '):<16} {facts[key]}")


@cluster_app.command("set-storage")
def set_storage(
    name: Name,
    storage: Annotated[str, typer.Argument(help="postgres://…, file:///…, or memory.", show_default=False)] = "",
    from_file: Annotated[
        Path | None, typer.Option(help="Read it from here, so that no password is among the arguments.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Change where the replicas of a cluster keep their records, and tell them."""
    from pomerium_agent.errors import SettingsError

    if bool(storage) == (from_file is not None):
        raise SettingsError("name the storage, or a file that holds it: one of the two")
    if from_file is not None:
        try:
            storage = from_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--from-file: cannot read {from_file}: {error}") from error
    from pomerium_agent.console import clusters
    from pomerium_agent.console.control import poke
    from pomerium_agent.console.store import open_store

    place = data_dir or default_data_dir()
    with open_store(place, create=False) as store:
        cluster = store.cluster(name)
        clusters.set_storage(store, cluster, storage)
    poke(place, cluster.id)
    print(f"the replicas of {cluster.name} are told where their records live now")
