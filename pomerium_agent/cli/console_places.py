"""`console hosts` and `console cluster set-address`: where the names of clusters lead."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import DataDir, default_data_dir, utc_now


class Format(StrEnum):
    HOSTS = "hosts"
    ZONE = "zone"


def set_address(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.")],
    address: Annotated[str, typer.Argument(help="An IP address, or `detected` for where replicas call from.")],
    data_dir: DataDir = None,
) -> None:
    """Say at which address visitors reach a cluster, where that is not the one its replicas call from."""
    from pomerium_agent.console import places
    from pomerium_agent.console.store import open_store

    with open_store(data_dir or default_data_dir(), create=False) as store:
        cluster = store.cluster(name)
        places.set_address(store, cluster, address)
        place = places.place_of(store, cluster)
    where = ", ".join(place.addresses) or "no address yet: no replica has connected"
    print(f"the names of {cluster.domain} lead to {where}")


def hosts(
    cluster: Annotated[str, typer.Option(help="Only this cluster.", show_default=False)] = "",
    form: Annotated[Format, typer.Option("--format", help="For /etc/hosts, or for a name server.")] = Format.HOSTS,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here.", show_default=False)] = None,
    data_dir: DataDir = None,
) -> None:
    """Write the names of starter domains with their addresses, for those who resolve them."""
    from pomerium_agent.console.places import hosts_lines, place_of, zone_lines
    from pomerium_agent.console.store import open_store
    from pomerium_agent.errors import SettingsError

    now = utc_now()
    lines: list[str] = []
    with open_store(data_dir or default_data_dir(), create=False) as store:
        clusters = (store.cluster(cluster),) if cluster else store.clusters()
        if form is Format.ZONE and len(clusters) > 1:
            raise SettingsError("--cluster: a zone file is of one domain; say of which cluster")
        for each in clusters:
            place = place_of(store, each)
            if form is Format.ZONE:
                lines += zone_lines(each, place, int(now.timestamp()))
            else:
                lines += hosts_lines(each, place, store.config(each.id).config)
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise SettingsError(f"--output: {output} cannot be written: {error.strerror}") from error
