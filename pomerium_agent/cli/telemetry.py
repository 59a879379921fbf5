"""`pomerium-agent telemetry …`: what the replica on this machine last sent to its control plane."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

telemetry_app = typer.Typer(
    help="What this replica tells its control plane about itself.", no_args_is_help=True, pretty_exceptions_enable=False
)


@telemetry_app.callback()
def group() -> None:
    """What this replica tells its control plane about itself."""  # keeps `show` a verb of its own while it is alone


@telemetry_app.command("show")
def show(
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as it was sent, as JSON.")] = False,
) -> None:
    """Show the health reports, metrics and usage report that were last sent, and when."""
    from pomerium_agent.cli.status import ask, find_socket

    sent = ask(control_socket or find_socket(), "/telemetry")
    if as_json:
        print(json.dumps(sent, indent=2))
        return
    for line in told(sent):
        print(line)


def told(sent: dict[str, Any]) -> list[str]:
    """What was sent, in words."""
    from pomerium_agent.cli.plain import plain

    lines = ["health     the latest report of each check" if sent["health"] else "health     nothing was sent yet"]
    for each in sent["health"]:
        facts = "".join(f" {key}={value}" for key, value in sorted(each["attributes"].items()))
        lines.append(plain(f"  {each['sent_at']}  {each['check']}: {each['error'] or 'running'}{facts}"))
    metrics = sent["metrics"]
    if metrics is None:
        lines.append("metrics    never: the control plane did not ask for any since this agent began")
    else:
        lines.append(f"metrics    {metrics['sent_at']}")
        lines += [plain(f"  {line}") for line in series(metrics["scopes"])]
    usage = sent["usage"]
    if usage is None:
        lines.append(
            "usage      nothing: this replica did not hold the lease, or nobody signed in since this agent began"
        )
    else:
        shown = len(usage["users"])
        rest = "" if shown == usage["count"] else f", of whom {shown} are shown"
        lines.append(f"usage      {usage['sent_at']}  {usage['count']} user{'' if usage['count'] == 1 else 's'}{rest}")
        for user in usage["users"]:
            email = user["pseudonymousEmail"] or "-"
            lines.append(plain(f"  user {user['pseudonymousId']}  email {email}  signed in {user['lastSignedInAt']}"))
    return lines


def series(scopes: list[dict[str, Any]]) -> list[str]:
    """One line for each series: scope, name, labels, value."""
    lines = []
    for scope in scopes:
        for each in scope["metrics"]:
            labels = ",".join(f"{key}={value}" for key, value in sorted(each["labels"].items()))
            value = f"{each['count']} in all, sum {each['sum']}" if "count" in each else each["value"]
            lines.append(f"{scope['scope']}  {each['name']}{'{' + labels + '}' if labels else ''}  {value}")
    return lines
