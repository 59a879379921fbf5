"""What becomes of every field of Route and Settings: one table each, so that no field can be forgotten.

A test holds these tables against the wire contract. A field that is neither read nor ignored for a stated
reason is `LATER`: setting it quarantines a route, and draws a warning among the settings, so that nobody
takes for protection what is not there yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Fate(Enum):
    READ = "compiled into the snapshot, or checked on the way"
    IGNORED = "has no effect on the data plane, for the stated reason"
    LATER = "not supported by this version yet"


@dataclass(frozen=True, slots=True)
class Use:
    fate: Fate
    reason: str = ""


READ = Use(Fate.READ)
DERIVED = Use(Fate.IGNORED, "what it would protect is protected by keys derived from the shared secret")
COMPUTED = Use(Fate.IGNORED, "computed by the server and stripped before use (R-1)")
REFERENCE = Use(Fate.IGNORED, "resolved into another field for entity records, before a route is checked (R-3)")
BOOTSTRAP = Use(Fate.IGNORED, "the bootstrap document decides: a different value would cut the replica off (Z 18.4)")
STORAGE = Use(Fate.IGNORED, "every replica runs all services, and its store comes from the bootstrap document")
CLOUD = Use(Fate.IGNORED, "provenance and user interface of the control plane")
CORE = Use(Fate.IGNORED, "the reference ignores it too")


def later(what: str) -> Use:
    """A field for a later version."""
    return Use(Fate.LATER, what)


def _table(*groups: tuple[Use, str]) -> Mapping[str, Use]:
    return {name: use for use, names in groups for name in names.split()}


ROUTE_FIELDS = _table(
    (READ, "name from to prefix path regex timeout allow_websockets tls_skip_verify tls_server_name id stat_name"),
    (READ, "tls_custom_ca tls_custom_ca_file tls_client_cert tls_client_key tls_client_cert_file tls_client_key_file"),
    (READ, "tls_upstream_server_name tls_upstream_allow_renegotiation tls_downstream_client_ca"),
    (READ, "tls_downstream_client_ca_key_pair_id"),
    (READ, "tls_downstream_client_ca_file set_request_headers remove_request_headers preserve_host_header"),
    (READ, "pass_identity_headers prefix_rewrite regex_rewrite_pattern regex_rewrite_substitution redirect response"),
    (READ, "load_balancing_weights rewrite_response_headers set_response_headers idle_timeout allow_spdy host_rewrite"),
    (READ, "host_rewrite_header host_path_regex_rewrite_pattern host_path_regex_rewrite_substitution"),
    (READ, "regex_priority_order circuit_breaker_thresholds outlier_detection health_checks load_balancing_policy"),
    (READ, "healthy_panic_threshold allow_upgrades allow_public_unauthenticated_access"),
    # These are only checked here: what they mean is decided elsewhere.
    (READ, "allowed_users allowed_domains allow_any_authenticated_user depends_on identity_providers"),
    (READ, "bearer_token_format kubernetes_service_account_token kubernetes_service_account_token_file"),
    (READ, "kubernetes_service_account_token_key_pair_id enable_google_cloud_serverless_authentication"),
    (READ, "allowed_idp_claims policies cors_allow_preflight show_error_details"),
    (READ, "jwt_issuer_format jwt_groups_filter"),
    (CORE, "ppl_policies"),
    (READ, "idp_client_id idp_client_secret description logo_url idp_access_token_allowed_audiences"),
    (CLOUD, "namespace_id originator_id"),
    (COMPUTED, "created_at modified_at enforced_policies assigned_policies namespace_name"),
    (CORE, "jwt_groups_filter_infer_from_ppl"),
    (REFERENCE, "tls_custom_ca_key_pair_id tls_client_key_pair_id"),
    (REFERENCE, "policy_ids"),
    (later("MCP routes"), "mcp"),
    (later("reverse tunnels over ssh"), "upstream_tunnel"),
    (later("session recording"), "session_recording"),
    (later("an extra server name for downstream TLS"), "tls_downstream_server_name"),
)
# What a route can do without: it serves, and the operator is told that this part does nothing.
ROUTE_LATER_HARMLESS = frozenset({"tls_downstream_server_name"})

SETTINGS_FIELDS = _table(
    (READ, "log_level proxy_log_level address insecure_server certificates http_redirect_addr timeout_read"),
    (READ, "timeout_write timeout_idle authenticate_service_url authenticate_internal_service_url cookie_name"),
    (READ, "certificate_authority signing_key default_upstream_timeout grpc_client_timeout dns_lookup_family"),
    (READ, "skip_xff_append jwt_claims_headers set_response_headers xff_num_trusted_hops codec_type"),
    (READ, "use_proxy_protocol envoy_bind_config_source_address envoy_bind_config_freebind access_log_fields"),
    (READ, "downstream_mtls pass_identity_headers runtime_flags circuit_breaker_thresholds dns_udp_max_queries"),
    (READ, "dns_use_tcp dns_query_tries dns_query_timeout dns_failure_refresh_rate dns_refresh_rate allow_upgrades"),
    (READ, "normalize_path merge_slashes path_with_escaped_slashes_action headers_with_underscores_action"),
    (READ, "identity_providers bearer_token_format"),
    (READ, "google_cloud_serverless_authentication_service_account"),
    (BOOTSTRAP, "shared_secret databroker_storage_type databroker_storage_connection_string"),
    (STORAGE, "authorize_service_urls authorize_internal_service_url databroker_service_urls"),
    (STORAGE, "databroker_internal_service_url databroker_cluster_node_id databroker_cluster_nodes"),
    (STORAGE, "databroker_cluster_leader_id databroker_raft_bind_address override_certificate_name"),
    (STORAGE, "services"),
    (READ, "grpc_address grpc_insecure"),
    (DERIVED, "cookie_secret"),
    (READ, "cookie_domain cookie_http_only cookie_expire cookie_same_site idp_client_id idp_client_secret"),
    (READ, "idp_provider idp_provider_url scopes request_params signout_redirect_url"),
    (READ, "programmatic_redirect_domain_whitelist idp_access_token_allowed_audiences console_login_keys"),
    (READ, "authorize_log_fields jwt_groups_filter jwt_issuer_format"),
    (READ, "primary_color secondary_color darkmode_primary_color darkmode_secondary_color logo_url favicon_url"),
    (READ, "error_message_first_paragraph"),
    (CLOUD, "installation_id id namespace_id originator_id name cluster_id auto_apply_changesets"),
    (COMPUTED, "created_at modified_at"),
    (CORE, "jwt_groups_filter_infer_from_ppl directory_provider directory_provider_options"),
    (CORE, "directory_provider_refresh_interval directory_provider_refresh_timeout"),
    (REFERENCE, "certificate_key_pair_ids certificate_authority_key_pair_id metrics_client_ca_key_pair_id"),
    (REFERENCE, "autocert_ca_key_pair_id autocert_trusted_ca_key_pair_id ssh_host_key_pair_ids"),
    (REFERENCE, "ssh_user_ca_key_pair_id"),
    (later("the metrics listener"), "metrics_address metrics_basic_auth metrics_certificate metrics_client_ca"),
    (later("certificates by ACME"), "autocert autocert_use_staging autocert_must_staple autocert_dir autocert_ca"),
    (later("certificates by ACME"), "autocert_email autocert_eab_key_id autocert_eab_mac_key autocert_trusted_ca"),
    (later("a derived internal authority"), "derive_tls"),
    (later("Envoy's admin on a listener"), "envoy_admin_access_log_path envoy_admin_profile_path envoy_admin_address"),
    (later("tracing"), "otel_traces_exporter otel_traces_sampler_arg otel_resource_attributes otel_log_level"),
    (later("tracing"), "otel_attribute_value_length_limit otel_exporter_otlp_endpoint"),
    (later("tracing"), "otel_exporter_otlp_traces_endpoint otel_exporter_otlp_protocol"),
    (later("tracing"), "otel_exporter_otlp_traces_protocol otel_exporter_otlp_headers"),
    (later("tracing"), "otel_exporter_otlp_traces_headers otel_exporter_otlp_timeout"),
    (later("tracing"), "otel_exporter_otlp_traces_timeout otel_bsp_schedule_delay otel_bsp_max_export_batch_size"),
    (later("HTTP/3"), "http3_advertise_port"),
    (later("ssh"), "ssh_address ssh_host_key_files ssh_host_keys ssh_user_ca_key_file ssh_user_ca_key"),
    (later("the debug listener"), "debug_address"),
    (later("MCP"), "mcp_allowed_client_id_domains mcp_allowed_as_metadata_domains"),
    (later("session recording"), "blob_storage session_recording_concurrency envoy_dynamic_extensions"),
)
