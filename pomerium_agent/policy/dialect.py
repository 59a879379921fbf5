"""Where we are more careful than the reference, as switches (policy 15)."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which deviations are in force: `Dialect.SAFE` is the default, `Dialect.REFERENCE` what the reference does.

    D4 (one bad policy closes its own route) and D6 (warnings) hold in both, since neither lets anybody in or out.
    """

    guard_strangers: bool  # D1: a stranger is let in only by what is certain without knowing them
    strict_matchers: bool  # D3: matchers that match everything or nothing by mistake are refused

    SAFE: ClassVar["Dialect"]
    REFERENCE: ClassVar["Dialect"]


Dialect.SAFE = Dialect(guard_strangers=True, strict_matchers=True)
Dialect.REFERENCE = Dialect(guard_strangers=False, strict_matchers=False)
