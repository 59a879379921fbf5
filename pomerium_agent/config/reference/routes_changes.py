"""Fields of a route that change a request on its way, and what is not there yet."""

from pomerium_agent.config.reference.field import Beside, Topic, later, works

REWRITE = {"regex_rewrite_pattern": "^/v([0-9]+)/(.*)$"}
HOST_FROM_PATH = {"host_path_regex_rewrite_pattern": "^/tenant/([a-z]+)/.*$"}

REWRITES = Topic(
    "How a request is changed on its way",
    (
        works(
            "prefix_rewrite",
            "P0",
            "`prefix_rewrite`: what stands for the matched prefix or path.",
            "/",
            default="the path of the first `to`",
            broken="/a\nb",
        ),
        works(
            "regex_rewrite_pattern",
            "P0",
            "`regex_rewrite.pattern`: RE2; not together with `prefix_rewrite`.",
            Beside(r"^/v([0-9]+)/(.*)$", {"regex_rewrite_substitution": r"/\2"}),
            broken="(",
        ),
        works(
            "regex_rewrite_substitution",
            "P0",
            r"`regex_rewrite.substitution`: `\1` is the first group.",
            Beside(r"/\2/of/\1", REWRITE),
            broken=Beside(r"/\3", REWRITE),
        ),
        works(
            "preserve_host_header",
            "P0",
            "The upstream sees the visitor's `Host`, and no `X-Forwarded-Host`.",
            True,
            default="`false`: it sees its own name",
        ),
        works(
            "host_rewrite",
            "P0",
            "`host_rewrite_literal`; wins over the other ways.",
            "legacy.internal",
            broken="a\nb",
        ),
        works(
            "host_rewrite_header",
            "P0",
            "`host_rewrite_header`: the `Host` is read from this header.",
            "X-Tenant",
            broken="a b",
        ),
        works(
            "host_path_regex_rewrite_pattern",
            "P0",
            "`host_rewrite_path_regex.pattern`: the `Host` is made from the path.",
            Beside("^/tenant/([a-z]+)/.*$", {"host_path_regex_rewrite_substitution": r"\1.internal"}),
            broken="(",
        ),
        works(
            "host_path_regex_rewrite_substitution",
            "P0",
            r"`host_rewrite_path_regex.substitution`: `\1` is the first group.",
            Beside(r"\1.internal", HOST_FROM_PATH),
            broken=Beside(r"\2", HOST_FROM_PATH),
        ),
        works(
            "set_request_headers",
            "P0",
            "Headers that the upstream gets, with `${pomerium.…}` filled in; they replace what was sent. An open "
            "route whose headers tell who calls is decided by the agent like any other.",
            {"X-Team": "blue"},
            broken={"Host": "a"},
        ),
        works(
            "remove_request_headers",
            "P0",
            "`request_headers_to_remove`; removing wins over setting.",
            ["X-Debug"],
            broken=["Host"],
        ),
        works(
            "pass_identity_headers",
            "P0",
            "The upstream gets the signed assertion and the headers of `jwt_claims_headers`.",
            True,
            default="`pass_identity_headers` of the settings",
        ),
        works(
            "set_response_headers",
            "P0",
            "`response_headers_to_add` over the settings' own; the name `disable` empties the list.",
            {"X-Frame-Options": "DENY"},
            broken={"X-Note": "a\nb"},
        ),
        works(
            "rewrite_response_headers",
            "P0",
            "A header's value, or what it begins with, is replaced.",
            [{"header": "Location", "prefix": "http://inside/", "value": "https://outside/"}],
            broken=[{"header": "a b", "value": "c"}],
        ),
    ),
)
UPSTREAM_TLS = Topic(
    "TLS to the upstream",
    (
        works("tls_skip_verify", "P0", "`ACCEPT_UNTRUSTED`: whatever certificate the upstream has.", True),
        works(
            "tls_server_name",
            "P0",
            "As `tls_upstream_server_name`, which wins.",
            "erp.example.com",
            broken="a" * 256,
        ),
        works(
            "tls_upstream_server_name",
            "P0",
            "`sni`, and the name that the certificate must have.",
            "erp.example.com",
            default="the host of `to`",
            broken="a" * 256,
        ),
        works("tls_upstream_allow_renegotiation", "P1", "`allow_renegotiation`.", True),
        works(
            "tls_custom_ca",
            "P0",
            "`trusted_ca` in place of the system's. PEM, or base64 of PEM.",
            "${chain:ca.example.com}",
            broken="nonsense",
        ),
        works(
            "tls_custom_ca_file",
            "P0",
            "The same from a file of the replica.",
            "/etc/pomerium/ca.pem",
            broken="/nowhere/ca.pem",
        ),
        works(
            "tls_client_cert",
            "P0",
            "Client certificate for the upstream. PEM, or base64 of PEM.",
            Beside("${chain:client}", {"tls_client_key": "${key:client}"}),
            broken=Beside("nonsense", {"tls_client_key": "${key:client}"}),
        ),
        works(
            "tls_client_key",
            "P0",
            "Its private key.",
            Beside("${key:client}", {"tls_client_cert": "${chain:client}"}),
            broken=Beside("${key:another}", {"tls_client_cert": "${chain:client}"}),
        ),
        works(
            "tls_client_cert_file",
            "P0",
            "The same from a file, when `tls_client_cert` is not set.",
            Beside("/etc/pomerium/client.pem", {"tls_client_key_file": "/etc/pomerium/client-key.pem"}),
            broken="/nowhere/client.pem",
        ),
        works(
            "tls_client_key_file",
            "P0",
            "Its private key.",
            Beside("/etc/pomerium/client-key.pem", {"tls_client_cert_file": "/etc/pomerium/client.pem"}),
            broken="/nowhere/client-key.pem",
        ),
    ),
)
LATER = Topic(
    "Not there yet",
    (
        *later("MCP routes", "P2", mcp={"server": {}}),
        *later("reverse tunnels over ssh", "P2", upstream_tunnel={"ssh_policy_id": "p"}),
        *later("session recording", "P2", session_recording={"enabled": True}),
    ),
)
