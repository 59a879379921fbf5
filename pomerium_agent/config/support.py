"""What a route asks for that this version does not do, or that contradicts itself: never half done (routes 4.3)."""

from pomerium_agent.config.complaints import Complaints
from pomerium_agent.config.reference import ROUTE_FIELDS, Fate
from pomerium_agent.pb.pomerium import config_pb2

_LATER = {name: use for name, use in ROUTE_FIELDS.items() if use.fate is Fate.LATER}


def check_support(route: config_pb2.Route, complaints: Complaints) -> None:
    """What a later version will do must not be half done by this one."""
    present = {field.name for field, _ in route.ListFields()}
    if not route.session_recording.enabled:
        present.discard("session_recording")
    for name in sorted(present & _LATER.keys()):
        complaints.refuse(name, _LATER[name].unsupported, "remove the field, or run this route on another replica")
    if route.kubernetes_service_account_token and route.kubernetes_service_account_token_file:
        complaints.refuse(
            "kubernetes_service_account_token", "the token and its file are both set", "keep only one of them"
        )
    if route.HasField("mcp"):
        if route.mcp.WhichOneof("mode") is None:
            complaints.refuse("mcp", "it is neither a server nor a client", "set mcp.server or mcp.client")
        authority = route.mcp.server.authorization_server_url
        if authority and not authority.startswith("https://"):
            complaints.refuse("mcp.server.authorization_server_url", "it does not begin with https://", "use https://")
