"""What the verbs of `console login` do: each change reaches the bundles of all clusters that it concerns."""

from datetime import datetime

from pomerium_agent.console.clusters import republish
from pomerium_agent.console.login.keys import LEAD, LoginKey
from pomerium_agent.console.login.offer import takes_offer
from pomerium_agent.console.login.settings import LoginSettings
from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.errors import SettingsError

NOT_SET = "the console logs nobody in yet; set it up with `console login set`"


def set_login(store: Store, settings: LoginSettings, now: datetime) -> tuple[Cluster, ...]:
    """Log people in from now on. The clusters whose configuration changes because of it."""
    if not store.logins.keys().keys:
        store.logins.add_key(now)
    store.logins.set_settings(settings)
    return republish(store, reason="login at the console was set up", now=now)


def unset_login(store: Store, now: datetime) -> tuple[Cluster, ...]:
    """Log nobody in any more. SettingsError when nobody was."""
    _settings(store)
    store.logins.unset()
    return republish(store, reason="login at the console was ended", now=now)


def rotate_key(store: Store, now: datetime, *, at_once: bool = False) -> tuple[LoginKey, tuple[Cluster, ...]]:
    """A new key: published after a while in which replicas hear of it, or at once when the old one has leaked."""
    _settings(store)
    upcoming = store.logins.keys().upcoming(now)
    if upcoming is not None and not at_once:
        raise SettingsError(
            f"a rotation is under way: the new key is published from {upcoming.current_from:%H:%M:%S} UTC on; "
            "wait until then, or replace every key with --now"
        )
    key = store.logins.add_key(now if at_once else now + LEAD, alone=at_once)
    return key, republish(store, reason="the login key was rotated", now=now)


def drop_old_keys(store: Store, now: datetime) -> tuple[Cluster, ...]:
    """Forget keys that no sign-in uses any more. The clusters whose list of keys changes because of it."""
    over = store.logins.keys().over(now)
    if not over:
        return ()
    store.logins.remove_keys(over)
    return republish(store, reason="an old login key is over", now=now)


def describe_login(store: Store, now: datetime) -> dict[str, object]:
    """What may be shown: no secrets. SettingsError when there is nothing to show."""
    settings, keys = _settings(store), store.logins.keys()
    current, passing = keys.current(now), store.logins.clusters_with_tokens()
    return settings.to_json() | {
        "keys": [
            {
                "key": key.name,
                "current_from": key.current_from.isoformat(),
                "state": "next" if key.current_from > now else "current" if key == current else "old",
            }
            for key in keys.keys
        ],
        "clusters": [
            {"name": cluster.name, "logs_in_here": takes_it, "gets_tokens": cluster.id in passing}
            for cluster in store.clusters()
            if cluster.version
            for takes_it in [takes_offer(store.config(cluster.id).config.settings)]
        ],
    }


def _settings(store: Store) -> LoginSettings:
    settings = store.logins.settings()
    if settings is None:
        raise SettingsError(NOT_SET)
    return settings
