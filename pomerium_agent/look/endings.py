"""Pages on the way out and at the end of things: sign-out, an enrolled device, a sign-in for a program."""

from pomerium_agent.look.branding import PLAIN, Branding
from pomerium_agent.look.icons import Icon
from pomerium_agent.look.message import Message
from pomerium_agent.look.shell import Action, Form


def confirm_sign_out(form: Form, *, email: str = "", back: str = "", branding: Branding = PLAIN) -> Message:
    """Asks before signing out (authenticate.md 8.2); `form` carries the token that proves we asked."""
    whose = f"You are signed in as {email}. " if email else ""
    return Message(
        title="Sign out?",
        text=f"{whose}Signing out ends your session here; applications will ask you to sign in again.",
        icon=Icon.DOOR,
        primary=Action("Sign out", form),
        secondary=Action("Stay signed in", back) if back else None,
        branding=branding,
    )


def signed_out(*, sign_in_url: str = "", branding: Branding = PLAIN) -> Message:
    """Says that it is done (authenticate.md 8.2)."""
    return Message(
        title="You are signed out",
        text="Your session has ended. You may still be signed in at your identity provider; "
        "on a device that others use, sign out there too.",
        icon=Icon.CHECK,
        primary=Action("Sign in again", sign_in_url) if sign_in_url else None,
        branding=branding,
    )


def device_enrolled(*, name: str = "", next_url: str = "", branding: Branding = PLAIN) -> Message:
    """Says that a device is known from now on (authenticate.md 8.5)."""
    return Message(
        title="Your device is enrolled",
        text=f"{name or 'This device'} can now open what asks for a known device.",
        icon=Icon.DEVICE,
        primary=Action("Continue", next_url) if next_url else None,
        branding=branding,
    )


def program_signed_in(*, email: str = "", branding: Branding = PLAIN) -> Message:
    """Ends the browser's part of a program's sign-in (authenticate.md 8.6)."""
    return Message(
        title="You can close this window",
        text=f"You are signed in{f' as {email}' if email else ''}. The program that asked for it carries on by itself.",
        icon=Icon.CHECK,
        branding=branding,
    )
