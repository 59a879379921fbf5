"""Settings of how upstreams are reached, and of the replica as a whole."""

from pomerium_agent.config.reference.field import REFERENCE, Topic, ignored, later, works

BOOTSTRAP = "The bootstrap document decides: a different value would cut the replica off (Z 18.4)."
STORAGE = "Every replica runs all services, and its store comes from the bootstrap document."
CLOUD = "Provenance and user interface of the control plane."
EXAMPLE = "A" * 43 + "="  # 32 bytes in base64

UPSTREAMS = Topic(
    "Upstreams",
    (
        works(
            "default_upstream_timeout",
            "P0",
            "`timeout` of routes that have none.",
            "60s",
            default="30s",
            broken="-1s",
        ),
        works(
            "certificate_authority",
            "P0",
            "Authorities besides the system's. PEM, or base64 of PEM.",
            "${chain:ca.example.com}",
            default="the system's alone",
            broken="nonsense",
        ),
        works("allow_upgrades", "P0", "Upgrades of routes that name none.", ["websocket"], default="none"),
        works(
            "circuit_breaker_thresholds",
            "P1",
            "`circuit_breakers` of every cluster.",
            {"max_connections": 10_000},
            default="Envoy's 1024/1024/1024/3",
        ),
        works(
            "envoy_bind_config_source_address",
            "P1",
            "`upstream_bind_config.source_address` of the routes' clusters.",
            "127.0.0.1",
            default="the kernel's choice",
            broken="eth0",
        ),
        works("envoy_bind_config_freebind", "P1", "`upstream_bind_config.freebind`.", True),
        works(
            "dns_lookup_family",
            "P0",
            "`dns_lookup_family`.",
            "V4_ONLY",
            default="V4_PREFERRED",
            broken="V7",
        ),
        works("dns_udp_max_queries", "P1", "`udp_max_queries` of c-ares.", 50, default="100"),
        works("dns_use_tcp", "P1", "`use_tcp_for_dns_lookups`.", True),
        works("dns_query_tries", "P1", "`query_tries`.", 2, default="that of c-ares", broken=0),
        works(
            "dns_query_timeout",
            "P1",
            "`query_timeout_seconds`, whole seconds.",
            "2s",
            default="that of c-ares",
            broken="0.5s",
        ),
        works("dns_refresh_rate", "P1", "`dns_refresh_rate`.", "10s", default="5s", broken="0.001s"),
        works(
            "dns_failure_refresh_rate",
            "P1",
            "`dns_failure_refresh_rate.base_interval`.",
            "10s",
            default="5s",
            broken="0.001s",
        ),
        works(
            "grpc_client_timeout",
            "P0",
            "How long Envoy waits for a decision; `0s`: 30 seconds.",
            "5s",
            default="10s",
            broken="-1s",
        ),
    ),
    about="How upstreams are looked up and reached when their route says nothing else.",
)
REPLICA = Topic(
    "The replica",
    (
        works(
            "runtime_flags",
            "P0",
            "Switches; a map that is not empty replaces the whole set, so what it leaves out is off.",
            {
                "match_any_incoming_port": True,
                "routes_portal": True,
                "refresh_session_at_id_token_expiration": True,
                "config_hot_reload": True,
                "add_extra_metrics_labels": True,
                "authorize_use_synced_data": True,
                "envoy_resource_manager": True,
                "grpc_databroker_keepalive": True,
                "mcp": True,
                "set_envoy_concurrency_to_go_max_procs": True,
            },
            default="those of the example",
        ),
        *ignored(
            BOOTSTRAP,
            "P0",
            shared_secret=EXAMPLE,
        ),
        *ignored(
            BOOTSTRAP,
            "P2",
            databroker_storage_type="postgres",
            databroker_storage_connection_string="postgres://db.internal/pomerium",
        ),
        *ignored(
            STORAGE,
            "P2",
            services="all",
            authorize_service_urls=["https://authorize.internal"],
            authorize_internal_service_url="https://authorize.internal",
            databroker_service_urls=["https://databroker.internal"],
            databroker_internal_service_url="https://databroker.internal",
            databroker_cluster_node_id="node-1",
            databroker_cluster_nodes={"nodes": [{"id": "node-1"}]},
            databroker_cluster_leader_id="node-1",
            databroker_raft_bind_address=":5999",
            override_certificate_name="inside.example.com",
        ),
        *ignored(
            "The reference ignores it too.",
            "P2",
            directory_provider="okta",
            directory_provider_options={"url": "https://okta.example.com"},
            directory_provider_refresh_interval="10m",
            directory_provider_refresh_timeout="1m",
        ),
        *ignored(
            CLOUD,
            "-",
            id="s",
            namespace_id="n",
            originator_id="o",
            name="settings",
            cluster_id="c",
            auto_apply_changesets=True,
        ),
        *ignored(
            "Computed by the server and stripped before use (R-1).",
            "-",
            created_at="2026-01-01T00:00:00Z",
            modified_at="2026-01-01T00:00:00Z",
        ),
    ),
    about="Where records are kept and what replicas share, and the fields that are for others to read.",
)
LATER = Topic(
    "Not there yet",
    (
        *later(
            "ssh",
            "P2",
            ssh_address=":22",
            ssh_host_key_files=["/etc/ssh/host_key"],
            ssh_host_keys=["key"],
            ssh_user_ca_key_file="/etc/ssh/user_ca",
            ssh_user_ca_key="key",
        ),
        *ignored(REFERENCE, "P2", ssh_host_key_pair_ids=["ssh"], ssh_user_ca_key_pair_id="ssh"),
        *later(
            "MCP",
            "P2",
            mcp_allowed_client_id_domains=["example.com"],
            mcp_allowed_as_metadata_domains=["example.com"],
        ),
        *later(
            "session recording",
            "P2",
            blob_storage={"bucket_uri": "s3://recordings"},
            session_recording_concurrency=4,
            envoy_dynamic_extensions=["recorder"],
        ),
    ),
    about="Fields that this version knows of and does not act upon.",
)
