"""What no end-to-end test shows yet, and why: the fast tests fail for any other row of priority P0 or P1."""

_NAME_SERVER = (
    "names are looked up with it in place (test_public_table), but what it changes only a name server of our own shows"
)

# Fields by the message and their name.
FIELDS = {
    ("Route", "tls_upstream_allow_renegotiation"): (
        "configured in test_public_table; TLS 1.3 has no renegotiation, and no server of the tests asks for it"
    ),
    ("Settings", "envoy_bind_config_freebind"): (
        "it changes nothing where the machine has the address (test_public_table)"
    ),
    ("Settings", "dns_udp_max_queries"): _NAME_SERVER,
    ("Settings", "dns_use_tcp"): _NAME_SERVER,
    ("Settings", "dns_query_tries"): _NAME_SERVER,
    ("Settings", "dns_query_timeout"): _NAME_SERVER,
    ("Settings", "dns_refresh_rate"): _NAME_SERVER,
    ("Settings", "dns_failure_refresh_rate"): _NAME_SERVER,
}
# Acceptance examples, requirements and sections.
OTHERS = {
    "A6": "UDP tunnels are not there yet: such a route stands aside and says so",
    "routes 7.5": "metrics for others to fetch are not there yet: their settings say so",
    "routes 7.6": "HTTP/3 is not there yet: its settings say so",
    "routes 7.7": "tracing is not there yet: its settings say so",
}
