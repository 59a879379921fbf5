"""What Envoy is started with: the way to the agent, an admin socket, limits; all else comes over ADS (routes 12.1)."""

from pathlib import Path

from pomerium_agent.envoyconfig.dns import QUERY_TIMEOUT_SECONDS, QUERY_TRIES

NODE = "pomerium"
ADS_CLUSTER = "pomerium-control-plane-grpc"
_TYPE = "type.googleapis.com/"
_UNLIMITED = 4294967295
# Our words for levels, and Envoy's (routes 1.7, field 4). What Envoy tells at "info" is for whoever debugs Envoy
# (R-23): at our "info" it only warns. The access log does not depend on this.
_LOG_LEVELS = {
    "": "warning",
    "info": "warning",
    "warn": "warning",
    "fatal": "critical",
    "panic": "critical",
    "none": "off",
    "disabled": "off",
}
# The same fields as the agent's own lines. %j is the message, escaped for JSON; %z keeps local time honest.
_LOG_FORMAT = '{"time":"%Y-%m-%dT%H:%M:%S.%f%z","level":"%l","event":"%j","service":"envoy","logger":"%n"}'


def build_bootstrap(admin_socket: Path | str, ads_socket: Path | str) -> dict[str, object]:
    """The bootstrap as plain JSON.

    It depends on nothing but the runtime directory, so a new agent finds that the running Envoy was started
    with the very same bytes, and adopts it.
    """
    return {
        "node": {"id": NODE, "cluster": NODE},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": ADS_CLUSTER,
                            # The default waits up to 30 s after the agent is back (envoy.md 4).
                            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
                        }
                    }
                ],
            },
            # Waited for as long as it takes: an Envoy that takes over from another would else do so with nothing to
            # serve when the agent is away at that moment.
            "lds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
            "cds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        "static_resources": {"clusters": [_ads_cluster(str(ads_socket))]},
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {
                        # Envoy's own limit of 100 would refuse ordinary expressions (routes 4.4).
                        "re2.max_program_size.error_level": 1048576,
                        "re2.max_program_size.warn_level": 1024,
                    },
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPE
                        + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 50000,
                    },
                }
            ]
        },
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": _TYPE + "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "udp_max_queries": 100,
                "query_timeout_seconds": QUERY_TIMEOUT_SECONDS,
                "query_tries": QUERY_TRIES,
            },
        },
        "stats_config": {"stats_tags": [{"tag_name": "service", "fixed_value": "pomerium"}]},
        # Most of what a cluster costs are its counters. Those of its traffic are made when there is some.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }


def _ads_cluster(path: str) -> dict[str, object]:
    breakers = ("max_connections", "max_pending_requests", "max_requests", "max_connection_pools")
    return {
        "name": ADS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(breakers, _UNLIMITED)]},
        "load_assignment": {
            "cluster_name": ADS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "connection_keepalive": {
                            "interval": "360s",
                            "timeout": "60s",
                            "interval_jitter": {"value": 15},
                            "connection_idle_interval": "300s",
                        }
                    }
                },
            }
        },
    }


def envoy_arguments(
    binary: Path | str, bootstrap: Path | str, *, concurrency: int = 0, log_level: str = "info", hot: bool = False
) -> list[str]:
    """The command line of Envoy; concurrency 0 leaves it to Envoy, which takes one worker per CPU it may use.

    With `hot` whoever starts it adds what hot restart needs, or that there is none.
    """
    arguments = [str(binary), "-c", str(bootstrap), *(() if hot else ("--disable-hot-restart",))]
    arguments += ["--log-level", envoy_log_level(log_level), "--log-format", _LOG_FORMAT]
    # Its word on each refusal and each lost stream is ours to give, once.
    arguments += ["--component-log-level", "config:error"]
    arguments += ["--file-flush-interval-msec", "1000"]  # access log lines are for reading now
    if concurrency:
        arguments += ["--concurrency", str(concurrency)]
    return arguments


def envoy_log_level(level: str) -> str:
    """A configured level in Envoy's words."""
    return _LOG_LEVELS.get(level, level)
