"""Providers are opened once, documents are shared, and there is never more of either than a bound."""

import asyncio
from dataclasses import replace
from types import MappingProxyType

import aiohttp
import pytest

from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.idp import Providers, ProviderSettings
from pomerium_agent.idp.document import Shelf
from pomerium_agent.idp.pkce import code_challenge_of, new_code_verifier
from pomerium_agent.settings import Secret
from tests.fakes.clock import ManualClock, settle
from tests.unit.idp.scene import scene


async def test_equal_settings_have_one_provider_and_others_their_own() -> None:
    async with scene().open() as here:
        first = here.provider

        for changes in (
            {"client_secret": Secret("other")},
            {"request_params": MappingProxyType({"a": "b"})},
            {"scopes": ("openid",)},
            {"id": "x"},
            {"access_token_audiences": ()},
        ):
            assert here.providers.get(replace(here.settings, **changes)) is not first
        assert here.providers.get(replace(here.settings, request_params={})) is first


async def test_documents_are_asked_for_once_by_all_providers_of_an_issuer() -> None:
    async with scene().open() as here:
        others = [here.providers.get(replace(here.settings, client_id=f"client-{number}")) for number in range(5)]

        await asyncio.gather(*(provider.uses_pkce() for provider in (here.provider, *others)))
        token = here.idp.token()
        await asyncio.gather(*(here.provider.verify_id_token(token) for _ in range(5)))

        assert (len(here.idp.of("openid-configuration")), len(here.idp.of("/keys"))) == (1, 1)


async def test_the_provider_that_was_used_the_longest_ago_makes_room() -> None:
    async with aiohttp.ClientSession() as http:
        providers = Providers(http, ManualClock(), size=2)
        a, b, c = (ProviderSettings(type="google", client_id=name) for name in "abc")
        first = providers.get(a)
        second = providers.get(b)
        providers.get(a)
        providers.get(c)

        assert len(providers) == 2
        assert providers.get(a) is first
        assert providers.get(b) is not second


async def test_documents_of_issuers_that_nobody_names_any_more_make_room() -> None:
    async with aiohttp.ClientSession() as http:
        shelf = Shelf(http, ManualClock(), lambda document: document, size=2)
        first = shelf.document("https://a")
        for url in ("https://b", "https://a", "https://c"):
            shelf.document(url)

        assert len(shelf) == 2
        assert shelf.document("https://a") is first


async def test_who_has_a_document_does_not_wait_for_the_one_who_asks_for_a_newer() -> None:
    """An outage of a provider that stalls costs one caller its time, and not everybody."""
    async with scene().open() as here:
        await here.url()
        here.clock.jump(700)
        stalled = here.idp.stall("openid-configuration")
        asking = asyncio.create_task(here.url())
        await stalled.wait()

        assert await here.url()
        assert not asking.done()

        asking.cancel()
        await settle()
        here.idp.answers.clear()
        assert await here.url()
        assert len(here.idp.of("openid-configuration")) == 3


async def test_a_provider_that_comes_back_is_asked_soon() -> None:
    async with scene().open() as here:
        here.idp.fail("openid-configuration", 503)
        for _ in range(3):
            with pytest.raises(ProviderUnavailable, match="503"):
                await here.url()
        assert len(here.idp.of("openid-configuration")) == 1
        here.idp.answers.clear()
        here.clock.jump(5)

        assert await here.url()


def test_the_challenge_is_that_of_the_standard() -> None:
    """RFC 7636, appendix B."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

    assert code_challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert 43 <= len(new_code_verifier()) <= 128
    assert repr(new_code_verifier()) == "***"
