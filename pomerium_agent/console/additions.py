"""What a console adds to a cluster's own configuration on its way to replicas, taken away again. Pure."""

from cryptography import x509
from cryptography.x509.oid import NameOID

from pomerium_agent.console.ca import AUTHORITY_NAME
from pomerium_agent.pb.pomerium import config_pb2


def without_additions(config: config_pb2.Config) -> config_pb2.Config:
    """A copy without starter certificates and without the console's own login: as an operator would write it."""
    own = config_pb2.Config.FromString(config.SerializeToString())
    settings = own.settings
    if settings.console_login_keys:
        for name in ("console_login_keys", "authenticate_service_url", "authenticate_internal_service_url"):
            settings.ClearField(name)
    kept = [each for each in settings.certificates if not _is_starter(each.cert_bytes)]
    if len(kept) < len(settings.certificates):
        copies = [config_pb2.Settings.Certificate.FromString(each.SerializeToString()) for each in kept]
        del settings.certificates[:]
        settings.certificates.extend(copies)
    if not settings.ListFields():
        own.ClearField("settings")
    return own


def _is_starter(chain: bytes) -> bool:
    """Whether a console's authority signed it."""
    try:
        names = x509.load_pem_x509_certificate(chain).issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return False
    return any(str(name.value).startswith(AUTHORITY_NAME) for name in names)
