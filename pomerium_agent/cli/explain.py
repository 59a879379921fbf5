"""`pomerium-agent explain`: why a request is let in or not, and what would change it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pomerium_agent.errors import SettingsError

ALLOWED, DENIED, SIGN_IN = 0, 1, 4
EXIT_CODES = {"allow": ALLOWED, "deny": DENIED, "login": SIGN_IN, "enroll": SIGN_IN}


def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="[REQUEST_ID | FILE]",
            help="The request id of a recent denial; or a configuration file, to ask it instead of the replica.",
        ),
    ] = "",
    url: Annotated[str, typer.Option(help="The URL that would be asked for.")] = "",
    method: Annotated[str, typer.Option(help="The HTTP method; GET if none is given.")] = "",
    user: Annotated[str, typer.Option(help="The user id of who asks.")] = "",
    email: Annotated[str, typer.Option(help="The e-mail address of who asks.")] = "",
    group: Annotated[
        list[str], typer.Option(help="A directory group of who asks, by id or name; may be repeated.")
    ] = [],  # noqa: B006  # typer wants a list and never changes it
    claim: Annotated[list[str], typer.Option(metavar="NAME=VALUE", help="A claim of who asks; may be repeated.")] = [],  # noqa: B006
    ip: Annotated[str, typer.Option(help="The address that the request would come from.")] = "",
    header: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="A header of the request; may be repeated.")
    ] = [],  # noqa: B006
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say why a request is let in or not: every policy, rule and criterion, and the smallest change that would do.

    Either of a denial, by the request id that its page shows; or of a request that nobody made, with --url.
    Without --user, --email, --group and --claim, it is a stranger's. Ends with 0 when the request is let in,
    with 1 when it is denied, with 4 when its maker has to sign in or enroll a device, with 2 when it cannot be asked.
    """
    said = _said(url=url, method=method, user=user, email=email, ip=ip, groups=group, claims=claim, headers=header)
    if target and Path(target).is_file():
        if control_socket is not None:
            raise SettingsError("--socket: a file is explained without a replica; give one of the two")
        told = _by_file(Path(target), said)
    else:
        told = _by_replica(target, said, control_socket)
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        from pomerium_agent.cli.explained import explained

        print("\n".join(explained(told)))
    raise typer.Exit(EXIT_CODES.get(told["decision"], DENIED))


def _by_replica(request_id: str, said: Mapping[str, object], control_socket: Path | None) -> dict[str, Any]:
    from pomerium_agent.cli.status import ask, find_socket

    if request_id and said:
        raise SettingsError(
            f"{request_id!r} is no file; explain either a denial, by its request id alone, or a request, with --url"
        )
    if not request_id and "url" not in said:
        raise SettingsError("say what to explain: the request id of a denial, or a request with --url")
    return ask(control_socket or find_socket(), "/explain", {"request_id": request_id} if request_id else said)


def _by_file(file: Path, said: Mapping[str, object]) -> dict[str, Any]:
    """Compile the file as a replica would, and ask that."""
    import sys
    from datetime import UTC, datetime

    from pomerium_agent.authorize.ask import explain_request, read_hypothetical
    from pomerium_agent.config.compile import compile_snapshot
    from pomerium_agent.console.bundle import build_records
    from pomerium_agent.console.core_config import read_core_config
    from pomerium_agent.errors import ConfigRejected, InvalidRequest

    now = datetime.now(UTC)
    try:
        asked = read_hypothetical(said, now)
    except InvalidRequest as error:
        raise SettingsError(f"--{error}") from None
    core = read_core_config(file)
    if core.refused:
        for each in core.complaints:
            print(f"{'warning: ' if each.warning else ''}{each}", file=sys.stderr)
        raise SettingsError(f"{file} cannot be explained before this is corrected")
    try:
        snapshot, faults = compile_snapshot(build_records(core.config, None), now=now)
    except ConfigRejected as error:
        raise SettingsError(f"{file}: {error}") from error
    return explain_request(snapshot, asked, faults)


def _said(*, groups: list[str], claims: list[str], headers: list[str], **texts: str) -> dict[str, object]:
    """What was said of a request, in the words of `POST /explain`; what was not said is not in it."""
    from pomerium_agent.authorize.ask import read_claim

    said: dict[str, object] = {name: value for name, value in texts.items() if value}
    if groups:
        said["groups"] = groups
    if claims:
        gathered: dict[str, list[object]] = {}
        for name, value in _pairs("--claim", claims):
            read = read_claim(value)
            gathered.setdefault(name, []).extend(read if isinstance(read, list) else [read])
        said["claims"] = gathered
    if headers:
        joined: dict[str, str] = {}
        for name, value in _pairs("--header", headers):
            name = name.lower()
            joined[name] = f"{joined[name]},{value}" if name in joined else value
        said["headers"] = joined
    return said


def _pairs(option: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SettingsError(f"{option}: {text!r} has no name and value; write {option} name=value")
        yield name, value
