"""The keys of the Core configuration format that are not simply fields: files, aliases, and what a cluster decides.

Written from the public configuration reference and routes 1.2, 1.7 to 1.9.
"""

import base64
import binascii
from pathlib import Path

from google.protobuf.message import Message

from pomerium_agent.console.convert import Converter, Special, field_named
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy.complaints import did_you_mean
from pomerium_agent.policy.yaml_marks import Mapping, Marked, Scalar, Sequence

ENCODED_PEM = base64.b64encode(b"-----BEGIN ").decode()[:-2]
MAX_FILE_BYTES = 1024 * 1024

# Routes 1.9. A map that names one flag would switch every other one off at a replica, so all are written out.
RUNTIME_FLAGS = {
    "add_extra_metrics_labels": True,
    "allow_any_sign_out_redirect_uri": False,
    "authorize_use_synced_data": True,
    "config_hot_reload": True,
    "debug_admin_endpoints": False,
    "envoy_resource_manager": True,
    "grpc_databroker_keepalive": True,
    "match_any_incoming_port": True,
    "mcp": True,
    "mcp_dynamic_client_registration": False,
    "pomerium_jwt_endpoint": False,
    "refresh_session_at_id_token_expiration": True,
    "routes_portal": True,
    "set_envoy_concurrency_to_go_max_procs": True,
    "ssh_allow_direct_tcpip": False,
    "ssh_routes_portal": False,
    "ssh_upstream_tunnel": False,
}

_CLUSTER_SECRET = ("every cluster has its own shared secret, made by the console", "remove it")
_STORE = ("where records live is decided for a cluster", "use `console cluster create --storage` and remove it")
_ONE_PROCESS = ("a replica always runs all services in one process", "remove it")
_MACHINE = ("this belongs to one machine, not to the cluster", "set it in the environment of the agent")
_AUTOCERT = (
    "replicas do not fetch certificates by ACME; the starter domain has one from the console",
    "give others under `certificates`, and remove it",
)
_SSH = ("SSH routes need an Envoy that is not the stock one", "remove it")
_TOKEN = ("the cluster token belongs in the environment of the agent", "remove it, and keep it out of files like this")
_MCP = ("the console keeps the names of entities itself", "remove it")

# Left out with a warning: the file serves all the same.
LEFT_OUT: dict[str, tuple[str, str]] = {
    "shared_secret": _CLUSTER_SECRET,
    "shared_secret_file": _CLUSTER_SECRET,
    "services": _ONE_PROCESS,
    "pomerium_zero_token": _TOKEN,
    **dict.fromkeys(
        (
            "databroker_storage_type",
            "databroker_storage_connection_string",
            "databroker_storage_connection_string_file",
            "databroker_cluster_node_id",
            "databroker_cluster_nodes",
            "databroker_cluster_leader_id",
            "databroker_raft_bind_address",
        ),
        _STORE,
    ),
    **dict.fromkeys(
        (
            "authorize_service_url",
            "authorize_service_urls",
            "authorize_internal_service_url",
            "databroker_service_url",
            "databroker_service_urls",
            "databroker_internal_service_url",
        ),
        _ONE_PROCESS,
    ),
    **dict.fromkeys(
        (
            "dns_resolvers",
            "health_check_addr",
            "health_check_systemd_disabled",
            "metrics_basic_auth_file",
            "debug",
        ),
        _MACHINE,
    ),
    **dict.fromkeys(
        (
            "autocert",
            "autocert_use_staging",
            "autocert_must_staple",
            "autocert_dir",
            "autocert_ca",
            "autocert_email",
            "autocert_eab_key_id",
            "autocert_eab_mac_key",
            "autocert_trusted_ca",
            "autocert_trusted_ca_file",
        ),
        _AUTOCERT,
    ),
    **dict.fromkeys(
        (
            "ssh_address",
            "ssh_hostname",
            "ssh_host_key_files",
            "ssh_host_keys",
            "ssh_user_ca_key_file",
            "ssh_user_ca_key",
        ),
        _SSH,
    ),
}
# Refused: nobody writes these by hand.
SETTINGS_COMPUTED = (
    "id",
    "namespace_id",
    "originator_id",
    "name",
    "created_at",
    "modified_at",
    "cluster_id",
    "auto_apply_changesets",
    "certificate_key_pair_ids",
    "certificate_authority_key_pair_id",
    "metrics_client_ca_key_pair_id",
    "autocert_ca_key_pair_id",
    "autocert_trusted_ca_key_pair_id",
    "ssh_host_key_pair_ids",
    "ssh_user_ca_key_pair_id",
)
ROUTE_COMPUTED = (
    "namespace_id",
    "namespace_name",
    "originator_id",
    "created_at",
    "modified_at",
    "enforced_policies",
    "assigned_policies",
    "policy_ids",
    "tls_custom_ca_key_pair_id",
    "tls_client_key_pair_id",
    "tls_downstream_client_ca_key_pair_id",
    "kubernetes_service_account_token_key_pair_id",
)
# Handled beside the fields: see `pairs`.
_PAIRS = (
    ("certificate", "certificate_key", False),
    ("certificate_file", "certificate_key_file", True),
    ("metrics_certificate", "metrics_certificate_key", False),
    ("metrics_certificate_file", "metrics_certificate_key_file", True),
)


def specials(base: Path) -> dict[str, dict[str, Special]]:
    """How to read the keys that are not fields. `base` is where relative file names start."""
    return {
        "pomerium.config.Route": {
            "policy": _policy,
            "lb_policy": _renamed("load_balancing_policy"),
            "tls_custom_ca_file": _file_into("tls_custom_ca", base),
            "tls_client_cert_file": _file_into("tls_client_cert", base),
            "tls_client_key_file": _file_into("tls_client_key", base),
            "tls_downstream_client_ca_file": _file_into("tls_downstream_client_ca", base),
            "kubernetes_service_account_token_file": _file_into("kubernetes_service_account_token", base, plain=True),
            **dict.fromkeys(ROUTE_COMPUTED, _computed),
        },
        "pomerium.config.Settings": {
            "routes": _nothing,
            "policy": _nothing,
            "certificates": _certificates(base),
            "certificate_authority_file": _file_into("certificate_authority", base),
            "metrics_client_ca_file": _file_into("metrics_client_ca", base),
            "signing_key_file": _file_into("signing_key", base),
            "cookie_secret_file": _file_into("cookie_secret", base, plain=True),
            "idp_client_secret_file": _file_into("idp_client_secret", base, plain=True),
            "idp_scopes": _renamed("scopes", warn=False),
            "idp_request_params": _renamed("request_params", warn=False),
            "tls_derive": _renamed("derive_tls", warn=False),
            "headers": _renamed("set_response_headers"),
            "jwt_claims_headers": _claims_headers,
            "runtime_flags": _runtime_flags,
            **{key: _nothing for cert, secret, _ in _PAIRS for key in (cert, secret)},
            **dict.fromkeys(SETTINGS_COMPUTED, _computed),
            **dict.fromkeys(LEFT_OUT, _left_out),
        },
        "pomerium.config.DownstreamMtlsSettings": {
            "ca_file": _file_into("ca", base),
            "crl_file": _file_into("crl", base),
        },
        "pomerium.config.SANMatcher": {
            word: _san_pattern for word in ("dns", "email", "uri", "ip_address", "user_principal_name")
        },
    }


def pairs(convert: Converter, settings: config_pb2.Settings, mapping: Mapping, base: Path) -> None:
    """`certificate` with `certificate_key`, and its like: two keys that make one certificate."""
    for cert, secret, in_files in _PAIRS:
        given = [key for key in (cert, secret) if key in mapping.items]
        if not given:
            continue
        if len(given) == 1:
            other = secret if given[0] == cert else cert
            convert.complain(
                mapping.lines[given[0]], given[0], f"{given[0]} is useless without {other}", f"give {other} as well"
            )
            continue
        read = [_pem(convert, mapping.items[key], key, base, in_files=in_files) for key in (cert, secret)]
        if read[0] is not None and read[1] is not None:
            made = config_pb2.Settings.Certificate(cert_bytes=read[0], key_bytes=read[1])
            if cert.startswith("metrics"):
                settings.metrics_certificate.CopyFrom(made)
            else:
                settings.certificates.append(made)


def _pem(convert: Converter, marked: Marked, path: str, base: Path, *, in_files: bool) -> bytes | None:
    text = convert.text(marked, path)
    if text is None:
        return None
    if "-----BEGIN" in text:
        return text.encode()
    if in_files:
        if text.startswith(ENCODED_PEM):  # not to be shown: it may be a key
            reason = "this is the content of a PEM file in base64, and not the name of a file"
            convert.complain(marked.line, path, reason, "name the file, or give the PEM as it is")
            return None
        return _read(convert, marked, path, base / text)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        convert.complain(marked.line, path, "this is not base64", f"encode the PEM file, or use {path}_file")
        return None


def _read(convert: Converter, marked: Marked, path: str, file: Path) -> bytes | None:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            convert.complain(marked.line, path, f"{file} is larger than 1 MiB", "give the file that holds just the PEM")
            return None
        content = file.read_bytes()
    except OSError as error:
        reason = f"{file} cannot be read: {error.strerror or error}"
        convert.complain(marked.line, path, reason, "give a path that starts at this file's own folder")
        return None
    if not content.strip():
        convert.complain(marked.line, path, f"{file} is empty", "put the PEM into it")
        return None
    return content


def _file_into(field: str, base: Path, *, plain: bool = False) -> Special:
    """A key that names a file whose content another field holds: as base64, or as it is without the last newline."""

    def special(convert: Converter, message: Message, mapping: Mapping, marked: Marked, path: str) -> None:
        if isinstance(marked, Scalar) and marked.value is None:
            return
        if field in mapping.items:
            convert.complain(marked.line, path, f"{field} is given as well", "keep one of the two")
            return
        name = convert.text(marked, path)
        content = None if name is None else _read(convert, marked, path, base / name)
        if content is None:
            return
        try:
            text = content.decode().strip() if plain else base64.b64encode(content).decode()
        except UnicodeDecodeError:
            convert.complain(marked.line, path, "the file is not text", "give the file that holds the secret as text")
            return
        setattr(message, field, text)

    return special


def _renamed(name: str, *, warn: bool = True) -> Special:
    """A key known under another name as well."""

    def special(convert: Converter, message: Message, mapping: Mapping, marked: Marked, path: str) -> None:
        if name in mapping.items:
            convert.complain(marked.line, path, f"{name} is given as well, and means the same", "keep one of the two")
            return
        if warn:
            convert.complain(marked.line, path, f"this is an old name of {name}", f"write {name}", warning=True)
        convert.set(message, field_named(message.DESCRIPTOR, name), marked, path)

    return special


def _nothing(_convert: Converter, _message: Message, _mapping: Mapping, _marked: Marked, _path: str) -> None:
    """Read elsewhere."""


def _computed(convert: Converter, _message: Message, _mapping: Mapping, marked: Marked, path: str) -> None:
    convert.complain(marked.line, path, "this is filled in by the control plane", "remove it")


def _left_out(convert: Converter, _message: Message, _mapping: Mapping, marked: Marked, path: str) -> None:
    if isinstance(marked, Scalar) and marked.value in (None, False):
        return
    reason, remedy = LEFT_OUT[path]
    convert.complain(marked.line, path, f"left out: {reason}", remedy, warning=True)


def _policy(convert: Converter, message: Message, _mapping: Mapping, marked: Marked, path: str) -> None:
    """The PPL written inline at a route travels as the source of an unnamed policy."""
    assert isinstance(message, config_pb2.Route)  # noqa: S101  # by the table above
    if isinstance(marked, Scalar) and marked.value is None:
        return
    text = convert.policy(marked, path)
    if text is not None:
        message.policies.add(source_ppl=text)


def _certificates(base: Path) -> Special:
    """A list of `{cert, key}`, each a file name (or PEM)."""

    def special(convert: Converter, message: Message, _mapping: Mapping, marked: Marked, path: str) -> None:
        assert isinstance(message, config_pb2.Settings)  # noqa: S101  # by the table above
        for item, here in convert.items(marked, path):
            pair = convert.mapping(item, here)
            if pair is None:
                continue
            for key in sorted(pair.items.keys() - {"cert", "key"}):
                remedy = did_you_mean(key, ("cert", "key"), otherwise="remove it; known here: cert, key")
                convert.complain(pair.lines[key], f"{here}.{key}", f"the key {key} means nothing here", remedy)
            missing = [key for key in ("cert", "key") if key not in pair.items]
            for key in missing:
                convert.complain(pair.line, here, f"{key} is missing", f"give the file of the {key}")
            if missing:
                continue
            cert = _pem(convert, pair.items["cert"], f"{here}.cert", base, in_files=True)
            key_bytes = _pem(convert, pair.items["key"], f"{here}.key", base, in_files=True)
            if cert is not None and key_bytes is not None:
                message.certificates.add(cert_bytes=cert, key_bytes=key_bytes)

    return special


def _claims_headers(convert: Converter, message: Message, _mapping: Mapping, marked: Marked, path: str) -> None:
    """A map of header to claim; or a list of claims, each in the header `X-Pomerium-Claim-<claim>`."""
    assert isinstance(message, config_pb2.Settings)  # noqa: S101  # by the table above
    if isinstance(marked, Sequence):
        for item, here in convert.items(marked, path):
            claim = convert.text(item, here)
            if claim is not None:
                message.jwt_claims_headers[f"X-Pomerium-Claim-{claim.title()}"] = claim
    else:
        convert.set(message, field_named(message.DESCRIPTOR, "jwt_claims_headers"), marked, path)


def _runtime_flags(convert: Converter, message: Message, _mapping: Mapping, marked: Marked, path: str) -> None:
    assert isinstance(message, config_pb2.Settings)  # noqa: S101  # by the table above
    convert.set(message, field_named(message.DESCRIPTOR, "runtime_flags"), marked, path)
    if not message.runtime_flags or not isinstance(marked, Mapping):
        return
    for name in marked.items.keys() - RUNTIME_FLAGS.keys():
        remedy = did_you_mean(name, RUNTIME_FLAGS, otherwise="remove it")
        convert.complain(marked.lines[name], f"{path}.{name}", f"no flag is called {name}", remedy, warning=True)
    for name, default in RUNTIME_FLAGS.items():
        if name not in message.runtime_flags:
            message.runtime_flags[name] = default


def _san_pattern(convert: Converter, message: Message, mapping: Mapping, marked: Marked, path: str) -> None:
    """`{dns: PATTERN}` and its like (routes 1.8)."""
    assert isinstance(message, config_pb2.SANMatcher)  # noqa: S101  # by the table above
    kind = path.rpartition(".")[2]
    if len(mapping.items) > 1:
        convert.complain(mapping.lines[kind], path, "one matcher has one pattern", "make it a list item of its own")
        return
    pattern = convert.text(marked, path)
    if pattern is not None:
        message.san_type = getattr(config_pb2.SANMatcher, kind.upper())
        message.pattern = pattern
