"""What the identity manager says of itself: which providers keep sessions waiting, and why."""

from pomerium_agent.runtime.health import Check, Health

NAMED = 5  # providers that one report names


class Standing:
    """Unwell for as long as any session waits for its provider, and well again when none does.

    That way a provider that answers every other question makes one report, and not a thousand.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._waiting: dict[str, set[str]] = {}  # sessions by provider
        self._reasons: dict[str, str] = {}

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waits(self, provider: str, session_id: str, reason: str) -> None:
        """The provider cannot refresh this session now."""
        self._waiting.setdefault(provider, set()).add(session_id)
        if self._reasons.setdefault(provider, reason) == reason:
            self.tell()

    def goes_on(self, provider: str, session_id: str) -> None:
        """It was refreshed, or is over."""
        waiting = self._waiting.get(provider)
        if waiting is None:
            return
        waiting.discard(session_id)
        if not waiting:
            del self._waiting[provider], self._reasons[provider]
            self.tell()

    def tell(self) -> None:
        if self._reasons:
            reasons = [self._reasons[name] for name in sorted(self._reasons)]
            more = f"; and {len(reasons) - NAMED} more providers" if len(reasons) > NAMED else ""
            text = f"sessions wait to be refreshed, and go on meanwhile: {'; '.join(reasons[:NAMED])}{more}"
            self._health.failed(Check.IDENTITY_MANAGER, text)
        else:
            self._health.running(Check.IDENTITY_MANAGER, role="active")
