"""`pomerium-agent sessions …`: who is signed in, and signing them out."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pomerium_agent.cli.plain import plain
from pomerium_agent.errors import SettingsError

sessions_app = typer.Typer(help="Who is signed in: list, show and revoke sessions.", no_args_is_help=True)

ControlSocket = Annotated[
    Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Everything, as JSON.")]
User = Annotated[str, typer.Option(help="The user id of whose sessions they are.", show_default=False)]
Email = Annotated[str, typer.Option(help="The e-mail address of whose sessions they are.", show_default=False)]

COLUMNS = {
    "user": "user_id",
    "email": "email",
    "provider": "provider",
    "issued": "issued_at",
    "expires": "expires_at",
    "last access": "accessed_at",
    "session": "id",
}


@sessions_app.command("list")
def list_sessions(
    user: User = "",
    email: Email = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to list at most.")] = 100,
    after: Annotated[
        str, typer.Option(metavar="ID", help="Go on after this session, the last one of the page before.")
    ] = "",
    control_socket: ControlSocket = None,
    as_json: AsJson = False,
) -> None:
    """List the sessions that there are, of everybody or of one user, with when each was used last."""
    from urllib.parse import urlencode

    from pomerium_agent.cli.status import ask, find_socket

    said = {"user": user, "email": email, "limit": str(limit), "after": after}
    query = urlencode({name: value for name, value in said.items() if value})
    found = ask(control_socket or find_socket(), f"/sessions?{query}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if not found["sessions"]:
        print("nobody is signed in" if not (user or email or after) else "there is no such session")
        return
    print("\n".join(table(found["sessions"])))
    if found["next"]:
        more = [f"--{name} {value}" for name, value in (("user", user), ("email", email)) if value]
        print(f"\n{found['total']} in all; go on with {' '.join(['--after', found['next'], *more])}")


@sessions_app.command("show")
def show_session(
    session: Annotated[str, typer.Argument(metavar="ID", help="The session's id.")],
    control_socket: ControlSocket = None,
    as_json: AsJson = False,
) -> None:
    """Say everything about one session, claims included; tokens are never shown."""
    from urllib.parse import quote

    from pomerium_agent.cli.status import ask, find_socket

    if not session:
        raise SettingsError("say which session to show: its id, as `sessions list` has it")
    found = ask(control_socket or find_socket(), f"/sessions/{quote(session, safe='')}")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print("\n".join(described(found)))


@sessions_app.command("revoke")
def revoke_sessions(
    sessions: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The sessions' ids.")] = None,
    user: User = "",
    email: Email = "",
    control_socket: ControlSocket = None,
    as_json: AsJson = False,
) -> None:
    """Sign people out: the sessions with these ids, or all of one user. It takes effect at the next request."""
    from pomerium_agent.cli.status import ask, find_socket

    asked: dict[str, object] = {"ids": sessions, "user": user, "email": email}
    asked = {name: value for name, value in asked.items() if value}
    if len(asked) != 1:
        raise SettingsError("say whom to sign out: session ids, or --user, or --email, and one of these only")
    told = ask(control_socket or find_socket(), "/sessions/revoke", asked)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    for each in told["revoked"]:
        print(f"revoked  {plain(each['id'])} of {whose(each)}")
    for id in told["unknown"]:
        print(f"gone     {plain(id)}: there is no such session, or not any more")
    if not told["revoked"] and not told["unknown"]:
        print(f"{plain(user or email)} has no sessions")


def table(sessions: list[dict[str, Any]]) -> list[str]:
    """One line each, under headings, in columns."""
    rows = [list(COLUMNS)]
    for session in sessions:
        row = [plain(session[key] or "-") for key in COLUMNS.values()]
        if session["expired"]:
            row[list(COLUMNS).index("expires")] += " (over)"
        rows.append(row)
    widths = [max(len(row[number]) for row in rows) for number in range(len(COLUMNS))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def described(session: dict[str, Any]) -> list[str]:
    """One session in words."""
    lines = [
        f"session    {plain(session['id'])}{' (over)' if session['expired'] else ''}",
        f"user       {whose(session)}{', ' + plain(session['name']) if session['name'] else ''}",
        f"provider   {plain(session['provider'] or 'none that is configured')} {plain(session['idp_id'])}".rstrip(),
        f"issued     {session['issued_at'] or 'not known'}",
        f"expires    {session['expires_at'] or 'never by itself'}",
        f"accessed   {session['accessed_at'] or 'not known'}",
        f"refreshed  {refreshed(session)}",
    ]
    if session["impersonates"]:
        lines.append(f"stands for {plain(session['impersonates'])}")
    if session["audience"]:
        lines.append(f"hosts      {', '.join(map(plain, session['audience']))}")
    lines += [f"device     {plain(each['type'])} {plain(each['credential'])}" for each in session["devices"]]
    for word, claims in (("claim", session["claims"]), ("user claim", session["user_claims"])):
        lines += [f"{word:<10} {plain(name)}: {said(values)}" for name, values in sorted(claims.items())]
    return lines


def refreshed(session: dict[str, Any]) -> str:
    """How its tokens are kept fresh."""
    if session["refresh_disabled"] or not session["has_refresh_token"]:
        return "never; it has no refresh token" if not session["refresh_disabled"] else "never; that is switched off"
    times = [time for time in (session["access_token_expires_at"], session["id_token_expires_at"]) if time]
    return f"about a minute before {min(times)}" if times else "never; its tokens do not expire"


def whose(session: dict[str, Any]) -> str:
    """Whose session it is."""
    email = f" ({plain(session['email'])})" if session["email"] else ""
    return f"{plain(session['user_id'] or 'nobody')}{email}"


def said(values: list[Any]) -> str:
    return ", ".join(plain(value if isinstance(value, str) else json.dumps(value)) for value in values)
