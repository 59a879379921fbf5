"""What the console adds to the settings of clusters that name nobody to log people in. Pure."""

from dataclasses import dataclass

from pomerium_agent.pb.pomerium import config_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Where the console logs people in, and by which keys replicas know it."""

    public_url: str
    internal_url: str = ""
    keys: tuple[str, ...]


def takes_offer(settings: config_pb2.Settings) -> bool:
    """Whether a configuration leaves it open who logs people in."""
    return not settings.authenticate_service_url and not settings.idp_provider


def add_offer(settings: config_pb2.Settings, offer: Offer | None) -> None:
    """Fill in what the operator left open, and nothing else."""
    if offer is None or not takes_offer(settings):
        return
    settings.authenticate_service_url = offer.public_url
    if offer.internal_url:
        settings.authenticate_internal_service_url = offer.internal_url
    del settings.console_login_keys[:]
    settings.console_login_keys.extend(offer.keys)
