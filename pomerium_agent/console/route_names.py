"""Names for routes that have none: a control plane lists routes by name, so each has its own (zero link 17). Pure."""

import re

from pomerium_agent.pb.pomerium import config_pb2

MAX_NAME = 64


def name_routes(config: config_pb2.Config) -> config_pb2.Config:
    """A copy in which every route has a name of its own, made of its host and path; names that are there stay."""
    named = config_pb2.Config.FromString(config.SerializeToString())
    taken: set[str] = set()
    for route in sorted(named.routes, key=lambda route: not route.name):  # names that people gave come first
        name = wanted = route.name or _plain_name(route)
        number = 2
        while name in taken:
            name = f"{wanted}-{number}"
            number += 1
        taken.add(name)
        route.name = name
    return named


def _plain_name(route: config_pb2.Route) -> str:
    """`app-example-com-api` for `https://app.example.com/api`."""
    _, _, host = getattr(route, "from").rpartition("://")
    words = re.findall(r"[a-z0-9]+", f"{host} {route.path or route.prefix or route.regex}".lower())
    return "-".join(words)[:MAX_NAME].strip("-") or "route"
