"""A file that is not applied, with every reason."""

from collections.abc import Iterable

from pomerium_agent.errors import SettingsError
from pomerium_agent.policy.complaints import Complaint


class FileRefused(SettingsError):
    """A file is not applied. The text lists every reason, one a line."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(sorted(complaints))
        count = sum(1 for complaint in self.complaints if not complaint.warning)
        things = "one thing is" if count == 1 else f"{count} things are"
        lines = (f"{'warning: ' if complaint.warning else ''}{complaint}" for complaint in self.complaints)
        super().__init__(f"nothing was changed, since {things} wrong:\n" + "\n".join(lines))
