"""How our pages look: one small design, light and dark, that loads nothing from anywhere. Pure: values in, HTML out."""

from pomerium_agent.look.account import Account, Device, SessionFacts, render_account
from pomerium_agent.look.branding import PLAIN, Branding, read_branding
from pomerium_agent.look.endings import confirm_sign_out, device_enrolled, program_signed_in, signed_out
from pomerium_agent.look.headers import security_headers
from pomerium_agent.look.icons import Icon
from pomerium_agent.look.message import Cause, Message, render_message
from pomerium_agent.look.portal import Portal, PortalRoute, render_portal
from pomerium_agent.look.shell import Action, Bar, Form
from pomerium_agent.look.signing_in import (
    Consent,
    PasswordForm,
    Trouble,
    login_loop,
    render_consent,
    render_password_form,
    sign_in_trouble,
)

__all__ = [
    "PLAIN",
    "Account",
    "Action",
    "Bar",
    "Branding",
    "Cause",
    "Consent",
    "Device",
    "Form",
    "Icon",
    "Message",
    "PasswordForm",
    "Portal",
    "PortalRoute",
    "SessionFacts",
    "Trouble",
    "confirm_sign_out",
    "device_enrolled",
    "login_loop",
    "program_signed_in",
    "read_branding",
    "render_account",
    "render_consent",
    "render_message",
    "render_password_form",
    "render_portal",
    "security_headers",
    "sign_in_trouble",
    "signed_out",
]
