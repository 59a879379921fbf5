"""How a route's upstream is verified and how we identify ourselves to it (routes 1.2: 14 to 21, 57, 60; 9.3)."""

from collections.abc import Callable
from dataclasses import replace

from pomerium_agent.config.action import Endpoint, UpstreamTls
from pomerium_agent.config.client_certificates import parse_client_ca
from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.pem import parse_ca_bundle, parse_certificates, parse_pair, parse_private_key
from pomerium_agent.pb.pomerium import config_pb2

# Reads a file that a route names; raises OSError. None instead of a reader: files are taken on trust,
# as a control plane must, which does not have the replica's disk.
ReadFile = Callable[[str], bytes]

MAX_SERVER_NAME = 255


def no_files(path: str) -> bytes:
    """A reader for places where files named by a configuration must not be opened."""
    raise PermissionError("files are not read here")


def parse_upstream_tls(route: config_pb2.Route, read_file: ReadFile | None, complaints: Complaints) -> UpstreamTls:
    """Every complaint about the route's TLS material at once; what is returned counts only if there was none."""
    certificate, key = _client_certificate(route, read_file, complaints)
    return UpstreamTls(
        skip_verify=route.tls_skip_verify,
        custom_ca=_custom_ca(route, read_file, complaints),
        client_certificate=certificate,
        client_key=key,
        allow_renegotiation=route.tls_upstream_allow_renegotiation,
    )


def parse_downstream_ca(route: config_pb2.Route, read_file: ReadFile | None, complaints: Complaints) -> str | None:
    """The authority that the route asks its visitors' certificates of, as PEM (routes 1.2: 38, 39).

    None: none of its own. Empty: one that was not read, so that nobody has a good certificate.
    """
    if route.tls_downstream_client_ca_file:
        field, path = "tls_downstream_client_ca_file", route.tls_downstream_client_ca_file
        return _from_file(field, path, read_file, complaints, parse_client_ca)
    if route.tls_downstream_client_ca:
        field = "tls_downstream_client_ca"
        return complaints.attempt(field, parse_client_ca, route.tls_downstream_client_ca) or ""
    if route.tls_downstream_client_ca_key_pair_id:
        missing = f"there is no key pair {shown(route.tls_downstream_client_ca_key_pair_id)} with a certificate"
        complaints.refuse("tls_downstream_client_ca_key_pair_id", missing, "create it, or remove the reference")
        return ""
    return None


def with_server_name(
    endpoints: tuple[Endpoint, ...], route: config_pb2.Route, complaints: Complaints
) -> tuple[Endpoint, ...]:
    """The name to ask for and to verify: 57 wins over 15, and both over the URL's host (routes 9.3)."""
    field = "tls_upstream_server_name" if route.tls_upstream_server_name else "tls_server_name"
    override = route.tls_upstream_server_name or route.tls_server_name
    if override:
        if any(character in override for character in "\r\n\0"):
            complaints.refuse(field, "it has a line break or NUL inside", "remove it")
        if len(override.encode()) > MAX_SERVER_NAME:
            complaints.refuse(field, f"{shown(override)} is longer than {MAX_SERVER_NAME} bytes", "shorten it")
        endpoints = tuple(replace(e, server_name=override) if e.tls else e for e in endpoints)
    elif any(len(endpoint.server_name) > MAX_SERVER_NAME for endpoint in endpoints):
        complaints.refuse("to", f"a host is longer than {MAX_SERVER_NAME} bytes", "set tls_upstream_server_name")
    return endpoints


def _custom_ca(route: config_pb2.Route, read_file: ReadFile | None, complaints: Complaints) -> str:
    """Both may be given: each must be good, and the file's is used (routes 1.2, field 17)."""
    inline = ""
    if route.tls_custom_ca:
        inline = complaints.attempt("tls_custom_ca", parse_ca_bundle, route.tls_custom_ca) or ""
    if route.tls_custom_ca_file:
        return _from_file("tls_custom_ca_file", route.tls_custom_ca_file, read_file, complaints)
    return inline


def _client_certificate(route: config_pb2.Route, read_file: ReadFile | None, complaints: Complaints) -> tuple[str, str]:
    certificate: str | bytes = route.tls_client_cert
    key: str | bytes = route.tls_client_key
    names = ("tls_client_cert", "tls_client_key")
    if not certificate and not key:
        names = ("tls_client_cert_file", "tls_client_key_file")
        certificate, key = route.tls_client_cert_file, route.tls_client_key_file
    if not certificate and not key:
        return "", ""
    if not certificate or not key:
        missing, given = names if not certificate else reversed(names)
        complaints.refuse(missing, f"it must be set too, since {given} is", f"set {missing} or remove {given}")
        return "", ""
    if names[0].endswith("_file"):
        if read_file is None:
            return "", ""
        read = [_read(name, path, read_file, complaints) for name, path in zip(names, (certificate, key), strict=True)]
        if read[0] is None or read[1] is None:
            return "", ""
        certificate, key = read[0], read[1]
    if complaints.attempt(names[0], parse_certificates, certificate) is None:
        complaints.attempt(names[1], parse_private_key, key)
        return "", ""
    if complaints.attempt(names[1], parse_private_key, key) is None:
        return "", ""
    pair = complaints.attempt(names[1], lambda text: parse_pair(certificate, text), key)
    return (pair[0], pair[1]) if pair else ("", "")


def _from_file(
    field: str,
    path: str,
    read_file: ReadFile | None,
    complaints: Complaints,
    parse: Callable[[bytes], str] = parse_ca_bundle,
) -> str:
    if read_file is None:
        return ""
    content = _read(field, path, read_file, complaints)
    return (complaints.attempt(field, parse, content) or "") if content is not None else ""


def _read(field: str, path: str | bytes, read_file: ReadFile, complaints: Complaints) -> bytes | None:
    def read(name: str) -> bytes:
        try:
            return read_file(name)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            said = getattr(error, "strerror", None) or str(error)
            raise Unusable(
                f"{shown(name)} cannot be read: {said}", "put the file on every replica, readable for the agent"
            ) from None

    return complaints.attempt(field, read, str(path))
