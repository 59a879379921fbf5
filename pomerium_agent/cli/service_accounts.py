"""`pomerium-agent console service-account …`: machines that call routes without any login."""

import json
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import AsJson, ClusterName, DataDir, default_data_dir, utc_now

service_account_app = typer.Typer(
    help="Service accounts: a machine calls routes with a token, without any login.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The service account's name.")]


@service_account_app.command("create")
def create(
    name: Name,
    cluster: ClusterName,
    data_dir: DataDir = None,
    user_id: Annotated[
        str, typer.Option(help="Whom policies take it for; its own name when not given.", show_default=False)
    ] = "",
    expires: Annotated[str, typer.Option(help="When it ends: 90d, 12h, 8w, or never.")] = "90d",
    description: Annotated[str, typer.Option(help="What it is for.", show_default=False)] = "",
    as_json: AsJson = False,
) -> None:
    """Create a service account, tell the replicas, and show its token. It is shown once: nothing of it is kept."""
    from pomerium_agent.console import service_accounts as accounts
    from pomerium_agent.console.ca import write_ca_file
    from pomerium_agent.console.control import poke
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.words import NOBODY_SERVES, end_of_life

    place, now = data_dir or default_data_dir(), utc_now()
    with open_store(place, create=False) as store:
        owner = store.cluster(cluster)
        made = accounts.create_service_account(
            store, owner, name, now=now, user_id=user_id, description=description, expires=expires
        )
        url, ca_file = accounts.guarded_url(store, owner), write_ca_file(store, now)
    told = poke(place, owner.id)
    lines = accounts.curls(url, made.token, domain=owner.domain, ca_file=ca_file)
    if as_json:
        secret = {"jwt": str(made.token), "headers": accounts.headers(made.token), "curl": lines[0]}
        facts = made.account.to_json(now) | {"cluster": owner.name, "url": url, "console_told": told}
        print(json.dumps(facts | secret, indent=2))
        return
    print(f"service account {name} is made in cluster {owner.name}; it {end_of_life(made.account, now)}")
    print(f"policies take it for the user {made.account.user_id}")
    print(f"\nThis is its token, which is not shown again:\n\n  {made.token}\n\nEither header will do:\n")
    print("\n".join(f"  {line}" for line in lines))
    if not told:
        print(f"\n{NOBODY_SERVES}: replicas hear of it when one does")


@service_account_app.command("list")
def list_accounts(cluster: ClusterName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the service accounts of a cluster, without their tokens."""
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.words import end_of_life

    now = utc_now()
    with open_store(data_dir or default_data_dir(), create=False) as store:
        found = store.accounts.of(store.cluster(cluster).id)
    if as_json:
        print(json.dumps([account.to_json(now) for account in found], indent=2))
        return
    for account in found:
        said = (account.name, f"user {account.user_id}", end_of_life(account, now), account.description)
        print("  ".join(each for each in said if each))
    if not found:
        print(
            f"there are no service accounts; create one with `console service-account create NAME --cluster {cluster}`"
        )


@service_account_app.command("revoke")
def revoke(
    name: Name,
    cluster: ClusterName,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take a service account away for good. Its token stops working within a second."""
    from pomerium_agent.console.control import poke
    from pomerium_agent.console.service_accounts import revoke_service_account
    from pomerium_agent.console.store import open_store
    from pomerium_agent.console.words import NOBODY_SERVES

    place, now = data_dir or default_data_dir(), utc_now()
    with open_store(place, create=False) as store:
        owner = store.cluster(cluster)
        gone = revoke_service_account(store, owner, name, now=now)
    told = poke(place, owner.id)
    if as_json:
        print(json.dumps({"revoked": gone.to_json(now), "cluster": owner.name, "console_told": told}, indent=2))
        return
    print(f"service account {gone.name} of cluster {owner.name} is revoked")
    if not told:
        print(f"{NOBODY_SERVES}: its token works until one does, and replicas have heard of it")
