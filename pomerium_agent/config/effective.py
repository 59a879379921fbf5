"""Merged settings → the settings in force: one bad setting keeps its value from before, the rest applies (R-4)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from pomerium_agent.config import login_values, tracing_values, values
from pomerium_agent.config.access import parse_bearer_format, parse_issuer_format
from pomerium_agent.config.addresses import parse_address
from pomerium_agent.config.admin import parse_admin_address, parse_admin_log
from pomerium_agent.config.client_certificates import asks_for_certificates, parse_client_certificates
from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.durations import parse_duration
from pomerium_agent.config.forwarding import parse_circuit_breakers
from pomerium_agent.config.google import parse_google_account
from pomerium_agent.config.http3 import check_http3, parse_port
from pomerium_agent.config.identity_providers import parse_identity_providers
from pomerium_agent.config.metrics import METRICS_PORT, read_metrics
from pomerium_agent.config.pem import parse_ca_bundle, parse_signing_keys
from pomerium_agent.config.ports import keep_apart
from pomerium_agent.config.rate_limits import parse_login_limit
from pomerium_agent.config.reference import SETTINGS_FIELDS, Fate
from pomerium_agent.config.routes import RouteContext
from pomerium_agent.config.snapshot import (
    Address,
    Certificate,
    DnsOptions,
    Fault,
    GoogleAccount,
    IdentityProvider,
    MetricsListener,
    Settings,
)
from pomerium_agent.config.sourced import MergedSettings
from pomerium_agent.config.tracing import NO_TRACING, Tracing
from pomerium_agent.config.trust import ClientCertificates
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Local

SUBJECT = "settings"
GRPC_PORT = 5443  # of the databroker's address, when it names none (routes 7)
BRANDING = (
    "primary_color",
    "secondary_color",
    "darkmode_primary_color",
    "darkmode_secondary_color",
    "logo_url",
    "favicon_url",
    "error_message_first_paragraph",
)
_KEEP = "the value from before stays in force"

Parser = Callable[[Any], object]


def as_it_is(value: object) -> object:
    """For scalars that every value of their type is good for."""
    return value


# Field of the wire → attribute of the snapshot, and how it is read.
_PARSERS: tuple[tuple[str, str, Parser], ...] = (
    ("insecure_server", "insecure_server", as_it_is),
    ("grpc_insecure", "grpc_insecure", as_it_is),
    ("log_level", "log_level", values.parse_log_level),
    ("proxy_log_level", "proxy_log_level", values.parse_log_level),
    ("access_log_fields", "access_log_fields", values.parse_log_fields),
    ("certificate_authority", "certificate_authority", parse_ca_bundle),
    ("timeout_read", "timeout_read", parse_duration),
    ("timeout_write", "timeout_write", parse_duration),
    ("timeout_idle", "timeout_idle", parse_duration),
    ("default_upstream_timeout", "default_upstream_timeout", parse_duration),
    ("grpc_client_timeout", "grpc_client_timeout", values.parse_grpc_timeout),
    ("cookie_name", "cookie_name", values.parse_cookie_name),
    ("pass_identity_headers", "pass_identity_headers", as_it_is),
    ("jwt_issuer_format", "issuer_uri", parse_issuer_format),
    ("jwt_groups_filter", "groups_filter", tuple),
    ("bearer_token_format", "bearer_format", parse_bearer_format),
    ("authorize_log_fields", "authorize_log_fields", lambda fields: tuple(dict.fromkeys(fields.values))),
    ("jwt_claims_headers", "jwt_claims_headers", values.parse_claim_headers),
    ("set_response_headers", "set_response_headers", values.parse_response_headers),
    ("codec_type", "codec", values.parse_codec),
    ("http3_advertise_port", "http3_advertise_port", parse_port),
    ("envoy_admin_address", "envoy_admin", parse_admin_address),
    ("envoy_admin_access_log_path", "envoy_admin_log", parse_admin_log),
    ("use_proxy_protocol", "use_proxy_protocol", as_it_is),
    ("skip_xff_append", "skip_xff_append", as_it_is),
    ("xff_num_trusted_hops", "xff_trusted_hops", as_it_is),
    ("normalize_path", "normalize_path", as_it_is),
    ("merge_slashes", "merge_slashes", as_it_is),
    ("path_with_escaped_slashes_action", "escaped_slashes", values.parse_escaped_slashes),
    ("headers_with_underscores_action", "underscores", values.parse_underscores),
    ("runtime_flags", "match_any_incoming_port", values.parse_flag_match_any_port),
    ("circuit_breaker_thresholds", "circuit_breakers", parse_circuit_breakers),
    ("envoy_bind_config_source_address", "bind_source_address", values.parse_ip),
    ("envoy_bind_config_freebind", "bind_freebind", as_it_is),
    ("signing_key", "signing_key", parse_signing_keys),
    ("login_rate_limit", "login_limit", parse_login_limit),
)
_DNS_PARSERS: tuple[tuple[str, str, Parser], ...] = (
    ("dns_lookup_family", "lookup_family", values.parse_lookup_family),
    ("dns_udp_max_queries", "udp_max_queries", as_it_is),
    ("dns_use_tcp", "use_tcp", as_it_is),
    ("dns_query_tries", "query_tries", values.parse_query_tries),
    ("dns_query_timeout", "query_timeout", values.parse_query_timeout),
    ("dns_refresh_rate", "refresh_rate", values.parse_refresh_rate),
    ("dns_failure_refresh_rate", "failure_refresh_rate", values.parse_refresh_rate),
)
_TRACING_PARSERS: tuple[tuple[str, str, Parser], ...] = tracing_values.PARSERS
# Empty texts that mean "not configured" rather than a value that cannot be read.
_EMPTY_IS_UNSET = frozenset(
    (
        "certificate_authority",
        "signing_key",
        "envoy_bind_config_source_address",
        "envoy_admin_address",
        "cookie_name",
        "otel_exporter_otlp_endpoint",
        "otel_exporter_otlp_traces_endpoint",
        "google_cloud_serverless_authentication_service_account",
        *login_values.EMPTY_IS_UNSET,
    )
)


def effective_settings(
    merged: MergedSettings,
    *,
    previous: Settings | None,
    certificates: tuple[Certificate, ...],
    local: Local,
    shared_secret: bytes = b"",
) -> tuple[Settings, tuple[Fault, ...]]:
    """The settings in force, and a fault for each that could not be read.

    A setting that cannot be read keeps the value of the previous snapshot, or its default when there is none.
    What this machine says of itself (`local`) wins over every record.
    """
    reader = _Reader(merged, previous)
    found = reader.read_all(_PARSERS, previous or Settings(), Settings())
    if "proxy_log_level" not in merged.origin:
        found["proxy_log_level"] = found["log_level"]
    dns = reader.read_all(_DNS_PARSERS, previous.dns if previous else DnsOptions(), DnsOptions())
    tracing = reader.read_all(_TRACING_PARSERS, previous.tracing if previous else NO_TRACING, NO_TRACING)
    if local.tracing_off:
        tracing["exporter"] = False
    login_read = reader.read_login(previous.login_read if previous else None)
    login = login_values.read_login(login_read, merged.message.runtime_flags, shared_secret, local.force_flow)
    insecure = bool(found["insecure_server"])
    address, redirect = reader.address(local, 80 if insecure else 443), reader.redirect_address(local)
    grpc_address = reader.grpc_address(local, taken=(address, redirect))
    settings = Settings(
        **found,
        dns=DnsOptions(**dns),
        tracing=Tracing(**tracing),
        certificates=certificates,
        address=address,
        http_redirect=redirect,
        grpc_address=grpc_address,
        metrics=reader.metrics(local, taken=(address, redirect, grpc_address)),
        login=login,
        login_read=MappingProxyType(login_read),
        hosts_of_authenticate=login_values.hosts_of(login, merged.message),
        client_certificates=reader.client_certificates(),
        identity_providers=reader.identity_providers(),
        google_account=reader.google_account(),
        branding=MappingProxyType({name: text for name in BRANDING if (text := getattr(merged.message, name))}),
    )
    settings = reader.keep_apart(settings)
    reader.check_http3(settings)
    reader.note_what_has_no_effect(settings)
    return settings, tuple(reader.faults)


def route_context(merged: MergedSettings) -> RouteContext:
    """What the settings mean for every route."""
    message = merged.message
    return RouteContext(
        allow_upgrades=tuple(name for name in message.allow_upgrades.values if name),
        client_ca=asks_for_certificates(message.downstream_mtls),
        certificates_by_policy=message.downstream_mtls.enforcement == config_pb2.POLICY,
        jwt_bearer=message.bearer_token_format == config_pb2.BEARER_TOKEN_FORMAT_JWT,
        identity_providers=frozenset(message.identity_providers),
    )


class _Reader:
    """Reads fields of the merged message; what is wrong ends up in `faults`, with the record it came from."""

    def __init__(self, merged: MergedSettings, previous: Settings | None) -> None:
        self._message = merged.message
        self._origin = merged.origin
        self._previous = previous
        self.faults: list[Fault] = []

    def read_all(self, parsers: Sequence[tuple[str, str, Parser]], kept: object, defaults: object) -> dict[str, Any]:
        return {
            attribute: self._read(field, parse, getattr(kept, attribute), getattr(defaults, attribute))
            for field, attribute, parse in parsers
        }

    def address(self, local: Local, default_port: int) -> Address:
        kept = self._previous.address if self._previous else Address()
        found = self._local_address("ADDRESS", local.address, default_port)
        if found is not None:
            return found
        if not self._message.address:
            return Address()
        parsed = self._read("address", lambda text: parse_address(text, default_port=default_port), kept, Address())
        assert isinstance(parsed, Address)  # noqa: S101  # for the type checker
        return parsed

    def redirect_address(self, local: Local) -> Address | None:
        kept = self._previous.http_redirect if self._previous else None
        found = self._local_address("HTTP_REDIRECT_ADDR", local.http_redirect_addr, 80)
        if found is not None:
            return found
        if not self._message.http_redirect_addr.strip("\"' "):
            return None
        parsed = self._read("http_redirect_addr", lambda text: parse_address(text, default_port=80), kept, None)
        return parsed if isinstance(parsed, Address) else None

    def grpc_address(self, local: Local, *, taken: Sequence[Address | None]) -> Address | None:
        """None when there is to be none; nor is there one in the place of the listeners of visitors."""
        kept = self._previous.grpc_address if self._previous else None
        found: object = self._local_address("GRPC_ADDRESS", local.grpc_address, GRPC_PORT)
        if found is None and self._message.grpc_address:
            found = self._read("grpc_address", lambda text: parse_address(text, default_port=GRPC_PORT), kept, None)
        if not isinstance(found, Address):
            return None
        if any(other is not None and other.port == found.port for other in taken):
            self._complaints("grpc_address").warn(
                "grpc_address",
                f"port {found.port} is where visitors are served, so clients of the databroker are not",
                f"choose another port, for example {GRPC_PORT}",
            )
            return None
        return found

    def metrics(self, local: Local, *, taken: Sequence[Address | None]) -> MetricsListener | None:
        """None when there is to be none, or when what guards it cannot be read."""
        kept = self._previous.metrics if self._previous else None
        found: object = self._local_address("METRICS_ADDRESS", local.metrics_address, METRICS_PORT)
        if found is None and self._message.metrics_address.strip("\"' "):
            parse = partial(parse_address, default_port=METRICS_PORT)
            found = self._read("metrics_address", parse, kept.address if kept else None, None)
        address = found if isinstance(found, Address) else None
        ports = [each.port for each in taken if each is not None]
        return read_metrics(self._message, address, kept, ports, self._complaints)

    def read_login(self, kept: Mapping[str, Any] | None) -> dict[str, Any]:
        """The settings of logging in, each by itself: one that cannot be read keeps its value from before."""
        return {
            key: self._read(field, parse, kept[key] if kept else default, default)
            for field, key, parse, default in login_values.PARSERS
        }

    def client_certificates(self) -> ClientCertificates:
        """Unlike the others: a value from before could let in whom the new one keeps out (A-18)."""
        return parse_client_certificates(self._message.downstream_mtls, self._complaints("downstream_mtls"))

    def identity_providers(self) -> tuple[IdentityProvider, ...]:
        return parse_identity_providers(self._message.identity_providers, self._complaints("identity_providers"))

    def google_account(self) -> GoogleAccount | None:
        """What cannot be read must not make us whoever the metadata server says we are."""
        kept = self._previous.google_account if self._previous else GoogleAccount()
        field = "google_cloud_serverless_authentication_service_account"
        found = self._read(field, parse_google_account, kept, None)
        return found if isinstance(found, GoogleAccount) else None

    def keep_apart(self, settings: Settings) -> Settings:
        return keep_apart(settings, self._complaints)

    def check_http3(self, settings: Settings) -> None:
        check_http3(settings, self._complaints("codec_type"))

    def note_what_has_no_effect(self, settings: Settings) -> None:
        """Whatever an operator may believe in, and which does nothing: never in silence."""
        self._unlisted_flags()
        self._unsent_headers(settings)
        self._unknown_log_fields()
        later: dict[str, list[str]] = {}
        for field, value in self._message.ListFields():
            use = SETTINGS_FIELDS[field.name]
            is_set = bool(value.ListFields()) if isinstance(value, Message) else bool(value)
            if use.fate is Fate.LATER and is_set:
                later.setdefault(use.unsupported, []).append(field.name)
        for reason, names in later.items():
            self._complaints(names[0]).warn(", ".join(names), reason, "remove it, or leave it for later")

    def _unsent_headers(self, settings: Settings) -> None:
        target = settings.tracing.target
        if target is None or target.http or not any("%" in str(value) for _, value in target.headers):
            return
        field = "otel_exporter_otlp_traces_headers" if settings.tracing.traces_headers else "otel_exporter_otlp_headers"
        self._complaints(field).warn(
            field,
            "a value with a percent sign cannot be sent by Envoy over gRPC, so its spans come without that header",
            "set otel_exporter_otlp_protocol to http/protobuf",
        )

    def _unlisted_flags(self) -> None:
        flags = self._message.runtime_flags
        off = [name for name in values.DEFAULT_TRUE_FLAGS if name not in flags] if flags else []
        if off:
            self._complaints("runtime_flags").warn(
                "runtime_flags",
                f"flags that are not listed are off: {', '.join(off)}",
                "list each of them with true if you want it on",
            )

    def _unknown_log_fields(self) -> None:
        unknown = values.unknown_log_fields(self._message.access_log_fields.values)
        if unknown:
            names = ", ".join(shown(name) for name in unknown[:5])
            self._complaints("access_log_fields").warn("access_log_fields", f"cannot be logged: {names}", "remove them")

    def _read(self, field: str, parse: Parser, kept: object, default: object) -> object:
        if field not in self._origin:
            return default
        value = getattr(self._message, field)
        if value == "" and field in _EMPTY_IS_UNSET:
            return default
        try:
            return parse(value)
        except Unusable as why:
            self._complaints(field).refuse(field, why.reason, f"{why.remedy}; until then {_KEEP}")
            return kept

    def _local_address(self, name: str, text: str, default_port: int) -> Address | None:
        if not text:
            return None
        try:
            return parse_address(text, default_port=default_port)
        except Unusable as why:
            complaints = Complaints("this machine", faults=self.faults)
            complaints.refuse(name, why.reason, f"{why.remedy}; until then the records decide")
        return None

    def _complaints(self, field: str) -> Complaints:
        """A collector whose faults are ours."""
        return Complaints(SUBJECT, record_id=self._origin.get(field, ""), faults=self.faults)
