"""Routes to a Kubernetes API server: whose token goes there (authorize 16, routes 9.6)."""

from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.snapshot import NO_SECRET
from pomerium_agent.config.upstream_tls import ReadFile
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Secret

# Who a request is for, and by whose leave: on these routes that is ours to say.
OURS = frozenset(
    ("authorization", "impersonate-user", "impersonate-group", "impersonate-uid", "x-pomerium-impersonate-groups")
)
TOKEN_MISSING = "kubernetes-token-missing"  # noqa: S105  # why such a route is closed


def is_kubernetes(route: config_pb2.Route) -> bool:
    """Whether a service account's token was meant to go to the upstream, be there one or not."""
    return bool(
        route.kubernetes_service_account_token
        or route.kubernetes_service_account_token_file
        or route.kubernetes_service_account_token_key_pair_id
    )


def check_kubernetes_headers(route: config_pb2.Route, complaints: Complaints) -> None:
    """A route may neither take off nor add to what impersonates: without it the token itself would be asked as."""
    for field, names in (
        ("set_request_headers", sorted(route.set_request_headers)),
        ("remove_request_headers", route.remove_request_headers),
    ):
        for name in names:
            if name.lower() in OURS:
                complaints.refuse(
                    field,
                    f"{shown(name)} says on whose behalf Kubernetes is asked, which is not for a route",
                    "remove it",
                )


def parse_kubernetes_token(route: config_pb2.Route, read_file: ReadFile | None, complaints: Complaints) -> Secret:
    """The token without its newlines; empty, and a fault, when there is none, which closes the route.

    Without `read_file` a file is taken on trust, and its token is empty.
    """
    inline, path = route.kubernetes_service_account_token, route.kubernetes_service_account_token_file
    if inline:
        return complaints.attempt("kubernetes_service_account_token", _token, inline) or NO_SECRET
    if not path:
        complaints.refuse(
            "kubernetes_service_account_token_key_pair_id",
            "the key pair that it names has no token, so nobody is let in",
            "put the token into the key of that key pair",
        )
        return NO_SECRET
    if read_file is None:
        return NO_SECRET
    reader = read_file

    def read(name: str) -> Secret:
        try:
            return _token(reader(name).decode())
        except (OSError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, Unusable):
                raise
            # Never the text of an error of decoding, which repeats what it could not read.
            said = (error.strerror or "") if isinstance(error, OSError) else ""
            raise Unusable(
                f"{shown(name)} cannot be read{': ' if said else ''}{said}, so nobody is let in",
                "put the token on every replica, readable for the agent",
            ) from None

    return complaints.attempt("kubernetes_service_account_token_file", read, path) or NO_SECRET


def _token(text: str) -> Secret:
    token = text.strip()
    if not token:
        raise Unusable("the token is empty, so nobody is let in", "put a service account's token there")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Unusable(
            "it has blanks in it, or is not ASCII, so nobody is let in", "put a service account's token there"
        )
    return Secret(token)


def names_somebody(email: str) -> bool:
    """Whether there is a user to impersonate: without one, a request would have the rights of the token itself (A-26).

    Nor is a name one that a header would not carry as it is: what is left of it may be nothing, or somebody else.
    """
    return bool(email) and email.isprintable() and email == email.strip()
