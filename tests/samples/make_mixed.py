"""Writes mixed-200.yaml: 200 routes of every kind that an ordinary configuration has. Run it after an edit here."""

import json
from pathlib import Path

FILE = Path(__file__).with_name("mixed-200.yaml")
DOMAIN = "example.com"


def routes() -> list[dict[str, object]]:
    """The routes, in twenty kinds, ten of each."""
    return [{"name": f"{kind.__name__}-{number}"} | kind(number) for number in range(10) for kind in KINDS]


def _from(name: str, number: int) -> str:
    return f"https://{name}-{number}.{DOMAIN}"


def public(n: int) -> dict[str, object]:
    return {
        "from": _from("public", n),
        "to": f"http://web-{n}.internal:8080",
        "allow_public_unauthenticated_access": True,
    }


def by_email(n: int) -> dict[str, object]:
    rule = {"allow": {"or": [{"email": {"is": f"user{n}@{DOMAIN}"}}, {"domain": {"is": DOMAIN}}]}}
    return {
        "from": _from("team", n),
        "to": f"http://team-{n}.internal",
        "policy": [rule],
        "pass_identity_headers": True,
    }


def any_user(n: int) -> dict[str, object]:
    return {"from": _from("wiki", n), "to": f"https://wiki-{n}.internal", "allow_any_authenticated_user": True}


def old_style(n: int) -> dict[str, object]:
    return {
        "from": _from("legacy", n),
        "to": f"http://legacy-{n}.internal",
        "allowed_users": [f"ada{n}@{DOMAIN}"],
        "allowed_domains": ["example.org"],
        "allowed_idp_claims": {"groups": ["engineering", "operations"]},
    }


def path(n: int) -> dict[str, object]:
    return {"from": _from("api", n), "path": "/v1/status", "to": f"http://api-{n}.internal", **_public()}


def prefix(n: int) -> dict[str, object]:
    return {
        "from": _from("api", n),
        "prefix": "/v1/",
        "prefix_rewrite": "/",
        "to": f"http://api-{n}.internal",
        "timeout": "90s",
        **_public(),
    }


def regex(n: int) -> dict[str, object]:
    return {
        "from": _from("api", n),
        "regex": "^/v[0-9]+/users/.*$",
        "regex_rewrite_pattern": "^/v[0-9]+/(.*)$",
        "regex_rewrite_substitution": r"/\1",
        "regex_priority_order": n,
        "to": f"http://users-{n}.internal",
        **_public(),
    }


def wildcard(n: int) -> dict[str, object]:
    return {"from": f"https://*.apps-{n}.{DOMAIN}", "to": f"http://apps-{n}.internal", **_public()}


def other_port(n: int) -> dict[str, object]:
    return {"from": f"https://alt-{n}.{DOMAIN}:8443", "to": f"http://alt-{n}.internal:8080", **_public()}


def redirect(n: int) -> dict[str, object]:
    to = {"host_redirect": f"new-{n}.{DOMAIN}", "response_code": 308, "strip_query": True}
    return {"from": _from("old", n), "redirect": to, **_public()}


def response(n: int) -> dict[str, object]:
    return {
        "from": _from("status", n),
        "path": "/hello",
        "response": {"status": 200, "body": f"hello from {n}"},
        **_public(),
    }


def websockets(n: int) -> dict[str, object]:
    return {"from": _from("chat", n), "to": f"https://chat-{n}.internal", "allow_websockets": True, **_public()}


def grpc(n: int) -> dict[str, object]:
    upstream = f"h2c://grpc-{n}.internal:9090"
    return {"from": _from("grpc", n), "to": upstream, "timeout": "0s", "idle_timeout": "0s", **_public()}


def balanced(n: int) -> dict[str, object]:
    check = {
        "timeout": "2s",
        "interval": "10s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/healthz"},
    }
    return {
        "from": _from("balanced", n),
        "to": [f"http://10.0.{n}.1:8080,10", f"http://10.0.{n}.2:8080,30"],
        "load_balancing_policy": ["ROUND_ROBIN", "LEAST_REQUEST", "RING_HASH", "RANDOM", "MAGLEV"][n % 5],
        "healthy_panic_threshold": 50,
        "health_checks": [check],
        "outlier_detection": {"consecutive_5xx": 12},
        **_public(),
    }


def headers(n: int) -> dict[str, object]:
    return {
        "from": _from("headers", n),
        "to": f"http://headers-{n}.internal",
        "set_request_headers": {"X-Number": n, "X-Answer": "no", "X-Route": '${pomerium.request.headers["X-Route"]}'},
        "remove_request_headers": ["X-Secret", "X-Debug"],
        "set_response_headers": {"X-Frame-Options": "DENY", "X-Note": "100% ok"},
        "rewrite_response_headers": [{"header": "Location", "prefix": "http://internal/", "value": "https://public/"}],
        **_public(),
    }


def upstream_tls(n: int) -> dict[str, object]:
    return {
        "from": _from("erp", n),
        "to": f"https://10.1.2.{n + 1}:8443",
        "tls_upstream_server_name": f"erp-{n}.internal",
        "tls_skip_verify": n % 2 == 0,
        "preserve_host_header": True,
        **_public(),
    }


def host_rewrite(n: int) -> dict[str, object]:
    return {
        "from": _from("tenant", n),
        "to": "http://tenants.internal",
        "host_rewrite": f"tenant-{n}.internal",
        "circuit_breaker_thresholds": {"max_connections": 128 + n},
        **_public(),
    }


def patient(n: int) -> dict[str, object]:
    return {
        "from": _from("reports", n),
        "to": f"http://reports-{n}.internal",
        "timeout": "1h30m",
        "idle_timeout": f"{n}m30s",
    }


def cors(n: int) -> dict[str, object]:
    rule = {"allow": {"and": [{"claim/groups": "admins"}, {"date": {"after": "2020-01-02T16:20:00"}}]}}
    return {"from": _from("cors", n), "to": f"http://cors-{n}.internal", "cors_allow_preflight": True, "policy": rule}


def base_path(n: int) -> dict[str, object]:
    return {"from": _from("docs", n), "to": f"https://docs-{n}.internal/base/", "description": f"Docs {n}", **_public()}


def _public() -> dict[str, object]:
    return {"allow_public_unauthenticated_access": True}


KINDS = (
    public, by_email, any_user, old_style, path, prefix, regex, wildcard, other_port, redirect,
    response, websockets, grpc, balanced, headers, upstream_tls, host_rewrite, patient, cors, base_path,
)  # fmt: skip


def text() -> str:
    """The file: JSON values in YAML's block style, so that every route and field has its line."""
    lines = ["# Written by make_mixed.py.", "log_level: info", "timeout_idle: 10m", "routes:"]
    for route in routes():
        sign = "-"
        for key, value in route.items():
            lines.append(f"  {sign} {key}: {json.dumps(value)}")
            sign = " "
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
