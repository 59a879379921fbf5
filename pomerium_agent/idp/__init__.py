"""Identity providers: how to ask each of them who somebody is."""

from pomerium_agent.idp.identity import Identity, LogoutToken, Token
from pomerium_agent.idp.provider import Provider
from pomerium_agent.idp.providers import Providers, open_provider
from pomerium_agent.idp.settings import ProviderSettings

__all__ = ["Identity", "LogoutToken", "Provider", "ProviderSettings", "Providers", "Token", "open_provider"]
