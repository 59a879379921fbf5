"""`console cluster …`: make clusters, look at them, and change what they stand on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import AsJson, DataDir, default_data_dir, utc_now
from pomerium_agent.cli.console_places import set_address
from pomerium_agent.cli.console_rotation import end_overlap, print_token, rotate

cluster_app = typer.Typer(help="Clusters: one token, one configuration, any number of replicas.", no_args_is_help=True)
cluster_app.command("set-address")(set_address)
cluster_app.command("rotate-token")(rotate)
cluster_app.command("end-overlap")(end_overlap)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.")]


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
