"""What the compiler lets through, a real Envoy takes; what Envoy would refuse, the compiler has found (R-5)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certifi import contents

from pomerium_agent.config.action import Unavailable
from pomerium_agent.envoyconfig import LocalAddresses, build_resources
from tests.fakes.config_records import compiled, config, issue, route
from tests.fakes.static_envoy import running_envoy
from tests.unit.config.test_route_checks import GOOD_CHECK, REFUSED

pytestmark = pytest.mark.e2e

CERT, KEY = (pem.decode() for pem in issue("client.example.com"))
# Close to what is refused, and good.
ODD: list[dict[str, Any]] = [
    {"regex": "(a{100}){10}"},
    {"regex": "^/(a|b|c){50}/.*(x|y){20}$"},
    {"prefix": "no-slash"},
    {"path": "/a?b#c"},
    {"prefix": "/ü \t"},
    {"from_": "https://bücher.example"},
    {"from_": "https://[2001:db8::1]:8443"},
    {"from_": "https://*.a-*.example.com"},
    {"from_": "https://*"},
    {"to": ["http://[::1]:80", "https://a.internal", "https://10.0.0.1"]},
    {"to": ["h2c://a", "http://b"]},
    {"to": ["unix:///run/app.sock", "https+unix:///run/b.sock"]},
    {"to": ["http://a,4294967294", "http://b,1"]},
    {"to": ["https://a"], "tls_upstream_server_name": "*.example.com"},
    {"to": ["https://a"], "tls_upstream_server_name": "x" * 255},
    {"to": ["https://[fe80::1]"]},
    {
        "to": ["https://a"],
        "tls_skip_verify": True,
        "tls_custom_ca": CERT,
        "tls_client_cert": CERT,
        "tls_client_key": KEY,
    },
    {"to": ["https://a/path?query"]},
    {"regex": "/a", "to": ["https://a/path"]},
    {"timeout": "9223372035s"},
    {"timeout": "0.000001s", "idle_timeout": "0s"},
    {"set_response_headers": {"X-100%": "100% %REQ(x)% %NOPE% %%"}},
    {"set_response_headers": {"X": "y" * 16000}},
    {"set_request_headers": {"X-Jwt": "${pomerium.jwt}", "X-A": "100%"}, "allow_public_unauthenticated_access": True},
    {"remove_request_headers": ["Host", ":path", "", "x y", "Cookie"]},
    {"rewrite_response_headers": [{"header": "Location", "prefix": "http://a", "value": "%b"}]},
    {"redirect": {"https_redirect": True, "port_redirect": 65535, "path_redirect": "/%a?b", "response_code": 303}},
    {"redirect": {"scheme_redirect": "ftp", "host_redirect": "h:1", "prefix_rewrite": "/x"}},
    {"response": {"status": 599, "body": "%" * 1024 * 1024}},
    {"response": {"status": 200}},
    {"prefix_rewrite": "/%"},
    {"regex_rewrite_pattern": "^/(.*)$", "regex_rewrite_substitution": r"/\0\1\\"},
    {"host_rewrite": "a b"},
    {"host_rewrite_header": "Host"},
    {"host_path_regex_rewrite_pattern": "^/([^/]+)/.*$", "host_path_regex_rewrite_substitution": r"\1.internal"},
    {"allow_upgrades": {"values": ["WebSocket", "x", "X", "connect"]}},
    {"allow_websockets": True, "allow_spdy": True, "to": ["https://a"]},
    {"health_checks": [GOOD_CHECK | {"alt_port": 65535}], "healthy_panic_threshold": 100},
    {"health_checks": [GOOD_CHECK | {"http_health_check": None, "tcp_health_check": {"send": {"text": "00ff"}}}]},
    {"to": ["h2c://a"], "health_checks": [GOOD_CHECK | {"http_health_check": None, "grpc_health_check": {}}]},
    {"to": ["https://a"], "health_checks": [GOOD_CHECK | {"http_health_check": None, "grpc_health_check": {}}]},
    {"outlier_detection": {"max_ejection_time": "30s", "interval": "1s", "success_rate_stdev_factor": 0}},
    {"circuit_breaker_thresholds": {"max_connections": 0, "max_retries": 4294967295}},
    *({"load_balancing_policy": n, "to": ["http://a,2", "http://b,3"]} for n in range(6)),
]


async def test_envoy_takes_whatever_the_compiler_lets_through(tmp_path: Path, free_port: Callable[[], int]) -> None:
    rows = [*ODD, *(row[1] for row in REFUSED)]
    settings: dict[str, Any] = {
        "address": f"127.0.0.1:{free_port()}",
        "set_response_headers": {"X-Note": "100% ok"},
        "dns_query_timeout": "1s",
        "dns_query_tries": 1,
        "dns_refresh_rate": "0.002s",
        "dns_failure_refresh_rate": "0.0011s",
        "envoy_bind_config_source_address": "127.0.0.1",
        "timeout_write": "9223372035s",
    }
    routes = [route(**({"id": f"r{n}", "from_": f"https://h{n}.example.com"} | row)) for n, row in enumerate(rows)]

    snapshot, faults = compiled(config("c", *routes, **settings))

    refused = {fault.route_id for fault in faults if not fault.warning}
    assert refused == {f"r{n}" for n in range(len(ODD), len(rows))}, [str(f) for f in faults if not f.warning]
    assert {r.id for r in snapshot.routes if isinstance(r.action, Unavailable)} <= refused
    local = LocalAddresses(authorize_socket="/none/a.sock", pages_socket="/none/p.sock", system_ca=contents())
    async with running_envoy(build_resources(snapshot, local), tmp_path) as envoy:
        assert (await envoy.ask_admin("/ready")).startswith("LIVE")
