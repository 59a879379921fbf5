"""Starter domains: `adjective-animal-NNNN.<suffix>`, easy to say and hard to guess in advance."""

import re
import secrets

from pomerium_agent.errors import SettingsError

# Browsers and curl resolve every name below `localhost` to loopback without asking any DNS server.
DEFAULT_SUFFIX = "pomerium.localhost"

ADJECTIVES = (
    "able amber apt bold brave breezy bright brisk calm candid clever cosmic crisp dapper deft eager early fair "
    "fleet fluent fond frank fresh gentle glad golden grand happy honest humble ideal jolly keen kind lively loyal "
    "lucid lucky mellow merry mild mighty modest neat nimble noble patient plucky polite proud quick quiet rapid "
    "ready robust serene sharp silent silver smart snappy solid spry stable steady sturdy subtle sunny swift tidy "
    "trusty upbeat valid vivid warm wise witty young zesty"
)
ANIMALS = (
    "badger beaver bison bobcat camel caribou cheetah cobra condor cougar crane dolphin eagle egret falcon ferret "
    "finch fox gazelle gecko gibbon giraffe goose gopher grouse hare hawk heron hippo horse hyena ibex ibis iguana "
    "impala jackal jaguar kestrel kiwi koala lemur leopard lion llama lynx macaw magpie marmot marten meerkat moose "
    "narwhal newt ocelot orca osprey otter owl panda panther pelican penguin puffin puma quail rabbit raven robin "
    "salmon seal sloth sparrow stork swan tapir tern tiger toucan turtle walrus weasel whale wolf wombat yak zebra"
)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def starter_domain(suffix: str = DEFAULT_SUFFIX) -> str:
    """A new starter domain below `suffix`."""
    number = secrets.randbelow(9000) + 1000
    return checked_domain(f"{secrets.choice(ADJECTIVES.split())}-{secrets.choice(ANIMALS.split())}-{number}.{suffix}")


def checked_domain(domain: str) -> str:
    """The domain in lower case; SettingsError when it is no DNS name that a wildcard certificate can carry."""
    lower = domain.strip().lower().strip(".")
    labels = lower.split(".")
    if len(labels) < 2 or len(lower) > 251 or not all(_LABEL.fullmatch(label) for label in labels):
        raise SettingsError(
            f"--domain: {domain!r} is not a domain of at least two labels of letters, digits and hyphens, "
            "such as brisk-otter-1234.example.com"
        )
    return lower
