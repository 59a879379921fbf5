"""Envoy alone against Envoy as we configure it: what our filters and settings cost a public request."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.envoys import run_bare, run_upstream
from bench.load import Measured, measure, median
from bench.probe import trusting
from bench.report import Cell, Column, Section
from pomerium_agent.demo.playground import open_cluster

CONNECTIONS = 16


async def bench_proxy(directory: Path, rounds: int, seconds: float, say: Callable[[str], None]) -> Section:
    """Rounds are taken in turn, so that a slow minute of the machine hits both."""
    tls = throw_away_certificate()
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
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}")
                for port, watched, into in ((bare_port, bare_pid, bare), (replica.port, pid, ours)):
                    into.append(
                        await measure(
                            port, host, trusting(), seconds=seconds, connections=CONNECTIONS, watched_pid=watched
                        )
                    )
    return _section(bare, ours)


def _section(bare: Sequence[Measured], ours: Sequence[Measured]) -> Section:
    def row(name: str, runs: Sequence[Measured]) -> list[Cell]:
        middles = [median([getattr(run, of) for run in runs]) for of in ("rate", "p50", "p99", "cpu_us")]
        return [name, *middles, sum(run.failures for run in runs)]

    def ratio(of: str) -> float:
        """Round by round, then the middle one: what slowed a whole round down cancels out."""
        return median([getattr(o, of) / getattr(b, of) for o, b in zip(ours, bare, strict=True)])

    return Section(
        name="proxy",
        title=f"a public route, TLS in front, {CONNECTIONS} connections: envoy alone and as we configure it",
        columns=(
            Column("", ""),
            Column("req/s", ".0f"),
            Column("p50 ms", ".2f"),
            Column("p99 ms", ".2f"),
            Column("envoy µs/req", ".0f"),
            Column("failed", "d"),
        ),
        rows=[row("envoy alone", bare), row("through our listener", ours)],
        ratios={
            "requests per second, ours/alone": ratio("rate"),
            "p50, ours/alone": ratio("p50"),
            "p99, ours/alone": ratio("p99"),
            "envoy CPU per request, ours/alone": ratio("cpu_us"),
        },
        notes=(
            "the generator shares the cores with envoy: the CPU per request does not depend on that, the rest does.",
        ),
    )


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
