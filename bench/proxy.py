"""Envoy alone against Envoy as we configure it: what our filters and settings cost a public request."""

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.envoys import run_bare, run_upstream
from bench.load import Measured, measure, median
from pomerium_agent.demo.playground import open_cluster

ROUNDS = 5
SECONDS = 2.0
CONNECTIONS = 16


async def bench_proxy(directory: Path) -> list[str]:
    """Lines of the report. Rounds are taken in turn, so that a slow minute of the machine hits both."""
    tls = throw_away_certificate()
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    async with (
        run_upstream(directory) as upstream,
        run_bare(directory, upstream, tls) as (bare_port, bare_pid),
        open_cluster(directory, "proxy") as cluster,
    ):
        await cluster.apply(
            f"""
routes:
  - from: https://hello.{cluster.domain}
    to: http://127.0.0.1:{upstream}
    allow_public_unauthenticated_access: true
"""
        )
        async with cluster.replica() as replica:
            pid = (await replica.pids())["envoy"]
            host = f"hello.{cluster.domain}"
            bare: list[Measured] = []
            ours: list[Measured] = []
            for _ in range(ROUNDS):
                for port, watched, into in ((bare_port, bare_pid, bare), (replica.port, pid, ours)):
                    into.append(
                        await measure(
                            port, host, trusting, seconds=SECONDS, connections=CONNECTIONS, watched_pid=watched
                        )
                    )
    return _report(bare, ours)


def _report(bare: list[Measured], ours: list[Measured]) -> list[str]:
    def row(name: str, runs: list[Measured]) -> str:
        return (
            f"{name:<24}{median([r.rate for r in runs]):>10.0f}{median([r.p50 for r in runs]):>10.2f}"
            f"{median([r.p99 for r in runs]):>10.2f}{median([r.cpu_us for r in runs]):>14.0f}"
            f"{sum(r.failures for r in runs):>10}"
        )

    def ratio(of: str) -> float:
        return median([getattr(o, of) / getattr(b, of) for o, b in zip(ours, bare, strict=True)])

    return [
        f"{'':<24}{'req/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'envoy µs/req':>14}{'failed':>10}",
        row("envoy alone", bare),
        row("through our listener", ours),
        f"{'ratio, round by round':<24}{ratio('rate'):>10.2f}{ratio('p50'):>10.2f}{ratio('p99'):>10.2f}"
        f"{ratio('cpu_us'):>14.2f}",
        "The generator shares two cores with Envoy: read the ratio of envoy µs/req, which does not depend on it.",
    ]


def throw_away_certificate() -> Mapping[str, str]:
    """A self-signed P-256 certificate, of the kind the console issues, so that both sides do the same TLS work."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return {
        "chain": certificate.public_bytes(pem).decode(),
        "key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
    }
