"""The command line: one file per verb, put together here. Heavy imports stay inside the verbs."""

from typing import Annotated

import typer

from pomerium_agent.cli import (
    agent,
    connect,
    console,
    demo,
    diff,
    doctor,
    explain,
    exporting,
    health,
    importing,
    log_level,
    run,
    sessions,
    status,
    support,
    telemetry,
    upgrade,
    validate,
    version,
)

app = typer.Typer(
    name="pomerium-agent",
    help="An open runtime for Pomerium's Zero-managed mode: an identity-aware proxy run by a cluster token.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,  # their tracebacks show local variables, and those may hold tokens
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("agent", hidden=True)(agent.agent)
app.command("validate")(validate.validate)
app.command("import")(importing.import_file)
app.command("export")(exporting.export)
app.command("diff")(diff.diff)
app.command("explain")(explain.explain)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("support")(support.support)
app.command("log-level")(log_level.log_level)
app.command("connect")(connect.connect)
app.command("upgrade")(upgrade.upgrade)
app.command("health")(health.health)
app.command("demo")(demo.demo)
app.command("version")(version.version)
app.add_typer(sessions.sessions_app, name="sessions")
app.add_typer(telemetry.telemetry_app, name="telemetry")
app.add_typer(console.console_app, name="console")


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Without a verb: run a replica."""
    if show_version:
        version.version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        run.run()
