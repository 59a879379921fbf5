"""`pomerium-agent console login …`: the console logs people in, so that clusters need no provider of their own."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import AsJson, ClusterName, DataDir, default_data_dir, utc_now
from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Secret

login_app = typer.Typer(
    help="Let the console log people in, so that clusters need no identity provider settings of their own.",
    no_args_is_help=True,
)


@login_app.command("set")
def set_login(
    provider: Annotated[str, typer.Option(help="Who knows the people: oidc, google, azure, okta, gitlab, github, …")],
    client_id: Annotated[str, typer.Option(help="The console's client id at the provider.")],
    public_url: Annotated[
        str, typer.Option(help="The console as browsers reach it, for example https://login.example.com.")
    ],
    url: Annotated[str, typer.Option(help="The provider's issuer, where it has no default.", show_default=False)] = "",
    client_secret_file: Annotated[
        Path | None, typer.Option(help="A file with the client secret in it.", show_default=False)
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="Ask for this instead of the provider's defaults; repeatable.")
    ] = None,
    internal_url: Annotated[
        str, typer.Option(help="The console as replicas reach it, when that differs.", show_default=False)
    ] = "",
    proxies: Annotated[
        int, typer.Option(help="Proxies in front of the console whose X-Forwarded-For is believed.")
    ] = 0,
    data_dir: DataDir = None,
) -> None:
    """Log people in at --public-url, and tell every cluster that names nobody else to log them in."""
    from pomerium_agent.console.login import manage
    from pomerium_agent.console.login.settings import checked_settings
    from pomerium_agent.console.store import open_store

    settings = checked_settings(
        provider=provider,
        url=url,
        client_id=client_id,
        client_secret=_read_secret(client_secret_file),
        scopes=tuple(scope or ()),
        public_url=public_url,
        internal_url=internal_url,
        proxies=proxies,
    )
    place = data_dir or default_data_dir()
    with open_store(place, create=False) as store:
        changed = manage.set_login(store, settings, utc_now())
    print(f"people log in at {settings.public_url}, with {provider}")
    print(f"register this redirect URI at the provider:\n\n  {settings.redirect_uri}\n")
    _tell(place, [(cluster.id, cluster.name) for cluster in changed])


@login_app.command("show")
def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show how people log in, the keys that replicas are told of, and which clusters take part. No secrets."""
    from pomerium_agent.console.login.manage import describe_login
    from pomerium_agent.console.store import open_store

    with open_store(data_dir or default_data_dir(), create=False) as store:
        found = describe_login(store, utc_now())
    if as_json:
        print(json.dumps(found, indent=2))
        return
    keys, clusters = found.pop("keys"), found.pop("clusters")
    for name, value in found.items():
        shown = " ".join(value) if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):<18} {shown if shown not in ('', None) else '-'}")
    assert isinstance(keys, list)  # noqa: S101  # by the function above
    assert isinstance(clusters, list)  # noqa: S101  # likewise
    for key in keys:
        print(f"{key['state'] + ' key':<18} {key['key']}  since {key['current_from']}")
    for cluster in clusters:
        here = "logs in here" if cluster["logs_in_here"] else "has its own login"
        print(f"{'cluster':<18} {cluster['name']}  {here}{', gets tokens' if cluster['gets_tokens'] else ''}")


@login_app.command("unset")
def unset(data_dir: DataDir = None) -> None:
    """Log nobody in any more, and sign everybody out at the console."""
    from pomerium_agent.console.login.manage import unset_login
    from pomerium_agent.console.store import open_store

    place = data_dir or default_data_dir()
    with open_store(place, create=False) as store:
        changed = unset_login(store, utc_now())
    print("the console logs nobody in any more")
    _tell(place, [(cluster.id, cluster.name) for cluster in changed])


@login_app.command("rotate-key")
def rotate_key(
    data_dir: DataDir = None,
    at_once: Annotated[
        bool, typer.Option("--now", help="The old key has leaked: replace it at once; sign-ins under way fail.")
    ] = False,
) -> None:
    """Make a new key. Replicas are told of it first; it is used ten minutes later, and the old one ten more."""
    from pomerium_agent.console.login import manage
    from pomerium_agent.console.store import open_store

    place = data_dir or default_data_dir()
    with open_store(place, create=False) as store:
        key, changed = manage.rotate_key(store, utc_now(), at_once=at_once)
    print(f"the new key is {key.name}, in use from {key.current_from:%H:%M:%S} UTC on")
    _tell(place, [(cluster.id, cluster.name) for cluster in changed])


@login_app.command("pass-tokens")
def pass_tokens(
    cluster: ClusterName,
    data_dir: DataDir = None,
    off: Annotated[bool, typer.Option("--off", help="Not any more.")] = False,
) -> None:
    """Hand a cluster the provider's ID and access tokens as well; its sessions then end with them."""
    from pomerium_agent.console.store import open_store

    with open_store(data_dir or default_data_dir(), create=False) as store:
        owner = store.cluster(cluster)
        store.logins.set_tokens(owner.id, passed=not off)
    print(f"cluster {owner.name} gets {'no tokens' if off else 'ID and access tokens, and never a refresh token'}")


def _read_secret(file: Path | None) -> Secret:
    if file is None:
        return Secret("")
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--client-secret-file: {file} cannot be read: {error}") from error
    if not text:
        raise SettingsError(f"--client-secret-file: {file} is empty")
    return Secret(text)


def _tell(place: Path, changed: list[tuple[str, str]]) -> None:
    """Poke the running console about every cluster that has a new version."""
    from pomerium_agent.console.control import poke
    from pomerium_agent.console.words import NOBODY_SERVES

    told = [poke(place, id) for id, _ in changed]
    for _, name in changed:
        print(f"cluster {name} has a new version")
    if not all(told):
        print(f"{NOBODY_SERVES}: replicas hear of it when one does")
