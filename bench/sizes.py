"""Configurations of a given number of routes, as records and as a file."""

from pomerium_agent.console.bundle import build_records
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record


def routes(count: int, *, changed: bool = False) -> config_pb2.Config:
    """`count` public routes on as many hosts; `changed` differs from the other in one header of one route."""
    config = config_pb2.Config()
    for number in range(count):
        route = config.routes.add(
            id=f"r{number:05}",
            to=[f"http://127.0.0.1:{1024 + number % 60000}"],
            allow_public_unauthenticated_access=True,
            set_request_headers={"x-route": str(number)},
        )
        setattr(route, "from", f"https://h{number:05}.bench.localhost")
    if changed and count:
        config.routes[count // 2].set_response_headers["x-changed"] = "yes"
    return config


def records(count: int, *, changed: bool = False) -> tuple[Record, ...]:
    """The same as records, split as a console splits them."""
    return build_records(routes(count, changed=changed), None)
