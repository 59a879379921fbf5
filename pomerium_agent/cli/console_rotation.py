"""`pomerium-agent console cluster rotate-token` and `end-overlap`: another token, with or without a time for both."""

import json
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import AsJson, DataDir, default_data_dir, utc_now

Name = Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.")]


def rotate(
    name: Name,
    data_dir: DataDir = None,
    overlap: Annotated[
        str, typer.Option(help="How long the old token stays good: 30m, 24h, 7d; 0 refuses it at once.")
    ] = "24h",
    as_json: AsJson = False,
) -> None:
    """Make a new token, and show it. The old one stays good for a while, so that no replica has to stop."""
    from pomerium_agent.console.clusters import describe, rotate_token
    from pomerium_agent.console.control import poke
    from pomerium_agent.console.endpoints import environment
    from pomerium_agent.console.rotation import read_overlap
    from pomerium_agent.console.status import read_status
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.words import count_replicas

    place, now, lasts = data_dir or default_data_dir(), utc_now(), read_overlap(overlap)
    with open_store(place, create=False) as store:
        cluster = store.cluster(name)
        connected = sum(each.connected for each in read_status(store, cluster, console_runs=True, now=now).replicas)
        token = rotate_token(store, cluster, now=now, overlap=lasts)
        cluster = store.cluster(cluster.id)
        facts, variables = describe(store, cluster, now), environment(store)
    poke(place, cluster.id)
    if as_json:
        # `token` is the token itself, as `create` says it; by what both are known is beside it.
        print(json.dumps(facts | variables | {"token": str(token), "tokens": facts["token"]}, indent=2))
        return
    if cluster.old_token is not None:
        print(f"the old token is good until {cluster.old_token.until:%Y-%m-%d %H:%M} UTC; `console status` says who")
        print(f"still uses it, and `console cluster end-overlap {cluster.name}` ends that earlier\n")
    elif connected:
        verb = "is" if connected == 1 else "are"
        print(f"{count_replicas(connected)} {verb} refused now, until given the new token\n", file=sys.stderr)
    print_token(str(token), variables)


def end_overlap(name: Name, data_dir: DataDir = None) -> None:
    """Refuse the old token from now on, before its time is over."""
    from pomerium_agent.console.control import poke
    from pomerium_agent.console.status import read_status
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.words import count_replicas

    place, now = data_dir or default_data_dir(), utc_now()
    with open_store(place, create=False) as store:
        cluster = store.cluster(name)
        good = len(cluster.generations(now))
        left_behind = read_status(store, cluster, console_runs=True, now=now).on_old_token
        store.rotations.end_overlap(cluster.id)
    poke(place, cluster.id)
    if good == 1:
        print(f"cluster {cluster.name} has one token; there is nothing to end")
        return
    print(f"the old token of cluster {cluster.name} is refused now")
    if left_behind:
        print(f"{count_replicas(left_behind)} still used it", file=sys.stderr)


def print_token(token: str, variables: Mapping[str, str]) -> None:
    """What a replica needs in its environment."""
    print("Run a replica with this in its environment. The token is not shown again:\n")
    for key, value in {"POMERIUM_ZERO_TOKEN": token, **variables}.items():
        print(f"  {key}={value}")
