"""Fields of a route that say what it catches and where it leads."""

from pomerium_agent.config.reference.field import Beside, Topic, works

TUNNELS = "`tcp+https://host:port` is a tunnel by CONNECT; `udp+https://host:port` one by CONNECT-UDP, over HTTP/2."

MATCHING = Topic(
    "What a route catches",
    (
        works(
            "from",
            "P0",
            f"Domains of a virtual host; `*` in the host becomes a pattern on the catch-all host. {TUNNELS}",
            "https://app.example.com",
            broken="app.example.com",
        ),
        works("prefix", "P0", "`match.prefix`: plain text, so `/app` also catches `/apple`.", "/app", default="`/`"),
        works("path", "P0", "`match.path`: the whole path; wins over `prefix`.", "/v1/status"),
        works(
            "regex",
            "P0",
            "`match.safe_regex`: RE2, the whole path; wins over `path` and `prefix`.",
            "^/users/[0-9]+$",
            broken="^/(?!admin)",
        ),
        works(
            "regex_priority_order",
            "P0",
            "Place among routes of one host with the same path: higher first.",
            10,
            default="last",
        ),
    ),
)
UPSTREAM = Topic(
    "Where it leads",
    (
        works(
            "to",
            "P0",
            "Endpoints of a cluster; `URL,weight` gives weights. The first one's path goes before the request's.",
            ["http://app.internal:8080"],
            broken=["http://"],
        ),
        works(
            "redirect",
            "P0",
            "`redirect`, which is authorized like any other route; wins over `response` and `to`.",
            {"host_redirect": "new.example.com", "response_code": 308},
            broken={"response_code": 399},
        ),
        works(
            "response",
            "P0",
            "`direct_response` of a status and a text of up to 1 MiB; wins over `to`.",
            {"status": 200, "body": "ok"},
            broken={"status": 99},
        ),
        works(
            "timeout",
            "P0",
            "`timeout` of the whole answer; `0s`: none.",
            "90s",
            default="`default_upstream_timeout`; none with websockets or on routes to Kubernetes",
            broken="-1s",
        ),
        works(
            "idle_timeout",
            "P0",
            "`idle_timeout` of a stream; `0s`: none.",
            "10m",
            default="5 minutes; none with websockets or on routes to Kubernetes",
            broken="-1s",
        ),
        works("allow_websockets", "P0", "Upgrade `websocket`, HTTP/1.1 to the upstream, no time limits.", True),
        works("allow_spdy", "P0", "Upgrade `spdy/3.1`.", True),
        works(
            "allow_upgrades",
            "P0",
            "Upgrades in place of the settings' own.",
            ["websocket"],
            default="`allow_upgrades` of the settings",
            broken=["a\nb"],
        ),
        works(
            "load_balancing_policy",
            "P0",
            "`lb_policy`; with `ring_hash` and `maglev` a session stays at one endpoint.",
            "LOAD_BALANCING_POLICY_RING_HASH",
            default="`round_robin`",
            broken=9,
        ),
        works(
            "load_balancing_weights",
            "P0",
            "Weight of each endpoint, one for each URL of `to`.",
            Beside([10, 30], {"to": ["http://10.0.0.1", "http://10.0.0.2"]}),
            broken=Beside([10], {"to": ["http://10.0.0.1", "http://10.0.0.2"]}),
        ),
        works(
            "healthy_panic_threshold",
            "P1",
            "`healthy_panic_threshold`: below this percentage of healthy endpoints all are used.",
            50,
            default="Envoy's 50",
            broken=101,
        ),
        works(
            "health_checks",
            "P0",
            "`health_checks`, field by field.",
            [
                {
                    "timeout": "2s",
                    "interval": "10s",
                    "unhealthy_threshold": 3,
                    "healthy_threshold": 1,
                    "http_health_check": {"path": "/healthz"},
                }
            ],
            broken=[{"interval": "1s", "http_health_check": {"path": "/"}}],
        ),
        works(
            "outlier_detection",
            "P1",
            "`outlier_detection`, field by field.",
            {"consecutive_5xx": 5, "base_ejection_time": "30s"},
            broken={"max_ejection_percent": 101},
        ),
        works(
            "circuit_breaker_thresholds",
            "P1",
            "`circuit_breakers`, each field over the settings' one.",
            {"max_connections": 100},
            default="the settings', else Envoy's 1024/1024/1024/3",
        ),
    ),
)
