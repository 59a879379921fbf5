"""`pomerium-agent console …`: a control plane that anyone can host, and the verbs that feed it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_backup import backup
from pomerium_agent.cli.console_clusters import cluster_app
from pomerium_agent.cli.console_login import login_app
from pomerium_agent.cli.console_options import AsJson, DataDir, default_data_dir, utc_now
from pomerium_agent.cli.console_places import hosts
from pomerium_agent.cli.console_serve import serve
from pomerium_agent.cli.console_telemetry import telemetry
from pomerium_agent.cli.exporting import export_cluster
from pomerium_agent.cli.plain import plain, plain_lines
from pomerium_agent.cli.service_accounts import service_account_app

console_app = typer.Typer(
    help="A control plane of your own: it hands configuration to replicas and hears how they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console_app.add_typer(cluster_app, name="cluster")
console_app.add_typer(login_app, name="login")
console_app.add_typer(service_account_app, name="service-account")
console_app.command("backup")(backup)
console_app.command("export")(export_cluster)
console_app.command("hosts")(hosts)
console_app.command("telemetry")(telemetry)
console_app.command("serve")(serve)


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
