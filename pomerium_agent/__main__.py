"""The one place that maps what went wrong to an exit code: 0 stopped, 1 bug or passing, 2 settings, 3 refused."""

import sys
import traceback
from collections.abc import Iterator

from pomerium_agent.cli.plain import plain_lines
from pomerium_agent.errors import AgentError, Refused, SettingsError

STOPPED, BUG, SETTINGS, REFUSED = 0, 1, 2, 3


def main() -> None:
    """Run the command line; never returns."""
    from pomerium_agent.cli.app import app  # late, so that an import error is reported like any other bug

    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:  # noqa: BLE001  # the outermost edge: everything ends here, with a code
        sys.exit(exit_code(error))


def exit_code(error: BaseException) -> int:
    """Print what a person needs to know about `error`, and return the code that says which kind it was."""
    leaves = list(_leaves(error))
    for kind, code in ((Refused, REFUSED), (SettingsError, SETTINGS)):
        for leaf in leaves:
            if isinstance(leaf, kind):
                print(f"pomerium-agent: {plain_lines(str(leaf))}", file=sys.stderr)  # noqa: T201
                return code
    if all(isinstance(leaf, AgentError) for leaf in leaves):
        for leaf in leaves:
            print(f"pomerium-agent: {plain_lines(str(leaf))}", file=sys.stderr)  # noqa: T201
        return BUG
    traceback.print_exception(error)
    return BUG


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside nested exception groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


if __name__ == "__main__":
    main()
