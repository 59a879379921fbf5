"""Renders a sample of every page into a directory, to be looked at: `python tools/pages.py DIR`."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pomerium_agent.authorize.page import Page, render_page
from pomerium_agent.look import (
    Account,
    Bar,
    Branding,
    Cause,
    Consent,
    Device,
    Form,
    PasswordForm,
    Portal,
    PortalRoute,
    SessionFacts,
    Trouble,
    confirm_sign_out,
    device_enrolled,
    login_loop,
    program_signed_in,
    render_account,
    render_consent,
    render_message,
    render_password_form,
    render_portal,
    sign_in_trouble,
    signed_out,
)
from pomerium_agent.policy import Result, Trace

NOW = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
OUT = Form("/.pomerium/sign_out", (("csrf", "sample"),))
BAR = Bar(site="corp.example.com", portal_url="/.pomerium/routes", account_url="/.pomerium/", sign_out=OUT)
REQUEST = "5f0c5a52-9d2f-4b5e-8f63-0a1c7be1d0aa"
LONG = "a" * 90
PINK = Branding(
    primary_color="#ff5c8a",
    dark_primary_color="#7a1438",
    logo_url="data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHdpZHRoPSIxNDAiIGhlaWdodD0i"
    "NDAiPjxyZWN0IHdpZHRoPSI0MCIgaGVpZ2h0PSI0MCIgcng9IjEwIiBmaWxsPSIjZmY1YzhhIi8+PGNpcmNsZSBjeD0iMjAiIGN5PSIyMCIgcj0iOS"
    "IgZmlsbD0iI2ZmZiIvPjwvc3ZnPg==",
    first_paragraph="Questions? Ask the **platform team** in `#help`, or [write to us](mailto:help@example.com).",
)
ROUTES = (
    ("Grafana", "http", "grafana.corp.example.com", "Dashboards and alerts of everything that runs.", ""),
    ("Wiki", "http", "wiki.corp.example.com", "How we work, written down.", ""),
    ("Payroll", "http", "payroll.corp.example.com", "", ""),
    ("Orders database", "tcp", "orders-db.corp.example.com:5432", "PostgreSQL, read only.", "pomerium-cli tcp"),
    ("Game server", "udp", "arena.corp.example.com:27015", "", "pomerium-cli udp"),
    ("Issue tracker for models", "mcp", "issues-mcp.corp.example.com", "Search and file issues.", ""),
    ("", "http", "unnamed.corp.example.com", "A route nobody has named.", ""),
    (f"Long{LONG}", "tcp", f"{LONG[:50]}.example.com:22", f"{LONG} {LONG}", "pomerium-cli tcp"),
)


def routes() -> tuple[PortalRoute, ...]:
    return tuple(
        PortalRoute(
            id=host,
            name=name,
            kind=kind,
            url=f"https://{host}" if kind in ("http", "mcp") else "",
            host=host,
            description=about,
            connect_command=f"{command} {host}" if command else "",
        )
        for name, kind, host, about, command in ROUTES
    )


ACCOUNT = Account(
    now=NOW,
    name="Ada Lovelace",
    email="ada@example.com",
    user_id="00u1a2b3c4d5e6f7g8h9",
    session=SessionFacts(
        id="1f9d3a0e-7c1b-4a35-9c52-0d7d2f6a8b11",
        provider="Okta (corp.okta.com)",
        since=NOW - timedelta(hours=3),
        expires=NOW + timedelta(hours=11),
    ),
    claims=(
        ("email", ("ada@example.com",)),
        ("name", ("Ada Lovelace",)),
        ("auth_time", ("1777878000",)),
        ("groups", ("engineering", "on-call", "analytical-engine")),
        ("https://example.com/claims/department_name_in_full", ("Mathematics & Engines",)),
        ("picture", (f"https://cdn.example.com/{LONG}.png",)),
        ("at_hash", ("kd83hdk2",)),
    ),
    groups=("engineering", "on-call", "analytical-engine", f"everybody-{LONG[:60]}"),
    devices=(
        Device(
            id="7bWq0r1mY5n2kX8d",
            name="Ada's laptop",
            enrolled=NOW - timedelta(days=40),
            current=True,
            remove=Form("/.pomerium/webauthn", (("action", "unregister"),)),
        ),
        Device(id=LONG, kind="Security key", enrolled=NOW - timedelta(days=2)),
    ),
    enroll_url="/.pomerium/webauthn",
    bar=BAR,
)
CAUSES = (
    Cause("The browser does not keep our cookie", "Allow cookies for wiki.corp.example.com, then sign in again."),
    Cause("The clock of your device is off", "It is 14 minutes behind ours. Let it set its time by itself."),
    Cause("Two sites share the name of a cookie", "Tell whoever runs this site, with the request id below."),
)


def pages() -> Iterator[tuple[str, str]]:
    """A name and the HTML, for every page there is."""
    yield "account", render_account(ACCOUNT)
    yield "account-impersonated", render_account(Account(now=NOW, email=f"{LONG}@example.com", impersonated=True))
    yield (
        "account-branded",
        render_account(
            Account(now=NOW, name="Grace Hopper", user_id="g", bar=BAR, session=ACCOUNT.session, branding=PINK)
        ),
    )
    yield "portal", render_portal(Portal(routes=routes(), bar=BAR))
    yield "portal-searched", render_portal(Portal(routes=routes(), query="corp tcp", bar=BAR))
    yield "portal-no-match", render_portal(Portal(routes=routes(), query="zebra", bar=BAR))
    yield "portal-empty", render_portal(Portal(bar=BAR))
    consent = Consent(cluster="Acme production", domain="corp.example.com", form=OUT, email="ada@example.com")
    yield "consent", render_consent(consent)
    long_name = Consent(cluster=LONG, domain=f"{LONG[:60]}.example.com", form=OUT, branding=PINK)
    yield "consent-long", render_consent(long_name)
    note = "This provider is for trying things out: ada@example.com and grace@example.com, password as printed."
    yield "password", render_password_form(PasswordForm(form=OUT, text="to continue to the demo", note=note))
    wrong = PasswordForm(form=OUT, email="ada@example.com", error="Email and password do not match.", branding=PINK)
    yield "password-error", render_password_form(wrong)
    details = (("error", "access_denied"), ("provider", "okta"), ("time", "2026-05-04T09:30:00Z"))
    for trouble in Trouble:
        name = f"trouble-{trouble.name.lower().replace('_', '-')}"
        message = sign_in_trouble(
            trouble, retry="/.pomerium/sign_in", home="/.pomerium/routes", request_id=REQUEST, details=details
        )
        yield name, render_message(message)
    loop = login_loop(CAUSES, host="wiki.corp.example.com", retry="/", request_id=REQUEST, details=details)
    yield "loop", render_message(loop)
    yield "sign-out", render_message(confirm_sign_out(OUT, email="ada@example.com", back="/.pomerium/routes"))
    yield "signed-out", render_message(signed_out(sign_in_url="/.pomerium/sign_in"))
    yield "device", render_message(device_enrolled(name="Ada's laptop", next_url="/.pomerium/"))
    yield "program", render_message(program_signed_in(email="ada@example.com"))
    yes, no = Result(True), Result(False)
    traces = (
        Trace(
            "p-1", "Only **staff** may open this.", "Ask for the group in [the form](https://f.example.com/).", no, no
        ),
        Trace("p-2", "Devices must be enrolled.", "", yes, no),
    )
    yield (
        "denied",
        render_page(
            Page(status=403, title="Forbidden", request_id=REQUEST, signed_in_as="ada@example.com", traces=traces)
        ),
    )
    yield "denied-branded", render_page(Page(status=450, title="device not authorized", request_id="r", branding=PINK))


def main(directory: str) -> None:
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    for name, html in pages():
        (target / f"{name}.html").write_text(html, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
