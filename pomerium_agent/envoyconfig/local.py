"""Where Envoy finds this machine's agent, as the builders need it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAddresses:
    """Sockets of the agent in the runtime directory, and what the machine offers to listeners and upstream TLS."""

    authorize_socket: str
    pages_socket: str
    system_ca: str = field(repr=False)  # PEM of the roots that upstreams are verified against; never empty
    ipv6: bool = True
    metrics_socket: str = ""  # empty: nobody there to answer scrapes, so they are not taken
    admin_socket: str = ""  # of Envoy itself; empty: its admin is on no port

    def __post_init__(self) -> None:
        if "-----BEGIN CERTIFICATE-----" not in self.system_ca:
            # Without roots Envoy would have to trust anybody, or refuse every TLS cluster.
            raise ValueError("the bundle of system roots holds no certificate")
