"""Configurations of a given number of routes, as records and as a file; all differ from each other in one header."""

from pomerium_agent.console.bundle import build_records
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record

MARK = "x-mark"  # the response header of the route in the middle, by which a change is seen


def routes(count: int, *, mark: str = "") -> config_pb2.Config:
    """`count` public routes on as many hosts; the one in the middle carries `mark`."""
    config = config_pb2.Config()
    for number in range(count):
        route = config.routes.add(
            id=f"r{number:05}",
            to=[f"http://127.0.0.1:{1024 + number % 60000}"],
            allow_public_unauthenticated_access=True,
            set_request_headers={"x-route": str(number)},
        )
        setattr(route, "from", f"https://{host(number, 'bench.localhost')}")
    if mark and count:
        config.routes[count // 2].set_response_headers[MARK] = mark
    return config


def records(count: int, *, mark: str = "") -> tuple[Record, ...]:
    """The same as records, split as a console splits them."""
    return build_records(routes(count, mark=mark), None)


def file(count: int, domain: str, upstream: int, *, mark: str) -> str:
    """The same as an operator's file, below a domain that the cluster has a certificate for."""
    lines = ["routes:"]
    for number in range(count):
        lines += [
            f"  - from: https://{host(number, domain)}",
            f"    to: http://127.0.0.1:{upstream}",
            "    allow_public_unauthenticated_access: true",
            "    set_request_headers:",
            f"      x-route: '{number}'",
        ]
        if number == count // 2:
            lines += ["    set_response_headers:", f"      {MARK}: {mark}"]
    return "\n".join(lines) + "\n"


def host(number: int, domain: str) -> str:
    """The host of one of the routes."""
    return f"h{number:05}.{domain}"


def marked_host(count: int, domain: str) -> str:
    """The host of the route in the middle."""
    return host(count // 2, domain)
