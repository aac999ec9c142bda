"""The command's root. Subcommands are imported when they are called, so that `lacuna --help` answers at once."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import version

import click
from click.shell_completion import CompletionItem

from ledger.settings import Settings

#: Name, module and the line that `lacuna --help` shows, in the order of use.
COMMANDS = {
    "init": ("orchestrator.command.init", "Write a commented spec after a few questions."),
    "validate": ("orchestrator.command.validate", "Check a spec and list everything that is wrong with it."),
    "plan": ("orchestrator.command.plan", "Show what a spec would run, share and cost."),
    "run": ("orchestrator.command.run", "Run a sweep here, to the end, and print its law."),
    "submit": ("orchestrator.command.submit", "Hand a sweep to the ledger without running it here."),
    "import": ("orchestrator.command.import_runs", "Import finished runs from elsewhere."),
    "controller": ("orchestrator.command.controller", "Carry out whatever is submitted, until told to stop."),
    "sweeps": ("orchestrator.command.sweeps", "List the sweeps."),
    "runs": ("orchestrator.command.runs", "List the runs of a sweep."),
    "status": ("orchestrator.command.status", "Show how far a sweep is."),
    "watch": ("orchestrator.command.watch", "Watch a sweep until it is over."),
    "law": ("orchestrator.command.law", "Print the law of a sweep."),
    "predict": ("orchestrator.command.predict", "Predict the loss of a model."),
    "optimum": ("orchestrator.command.optimum", "Say how sparse a model should be."),
    "fit": ("orchestrator.command.fit", "Fit a law to a table of runs."),
    "suggest": ("orchestrator.command.suggest", "Suggest the runs that teach most per FLOP."),
    "compare": ("orchestrator.command.compare", "Rank law forms on a table of runs."),
    "pause": ("orchestrator.command.control:pause", "Pause a sweep at its next checkpoints."),
    "resume": ("orchestrator.command.control:resume", "Let a paused sweep go on."),
    "cancel": ("orchestrator.command.control:cancel", "End a sweep; completed runs are kept."),
    "retry": ("orchestrator.command.control:retry", "Give failed runs another budget of attempts."),
    "migrate": ("orchestrator.command.migrate", "Bring the ledger's tables up to date."),
    "gc": ("orchestrator.command.gc", "Remove checkpoints that nobody needs."),
    "data": ("orchestrator.command.data", "Prepare data for training."),
    "serve": ("orchestrator.command.serve", "Serve the page, the REST service and MLflow."),
    "schema": ("orchestrator.command.schema", "Print the JSON Schema of a spec."),
    "completion": ("orchestrator.command.completion", "Print the completion script of a shell."),
    "token": ("orchestrator.command.token", "Create, list and revoke the service's tokens."),
    "doctor": ("orchestrator.command.doctor", "Find what is wrong with this set-up."),
}


#: What a completing shell sets to ask for completions.
COMPLETE_VARIABLE = "_LACUNA_COMPLETE"


class LazyGroup(click.Group):
    """A group whose commands lie in modules of their own: `module`, or `module:name` where it holds several."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute or "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Without importing them: a shell waits for this at every press of the key.
        options = click.Command.shell_complete(self, ctx, incomplete)
        commands = [
            CompletionItem(name, help=line)
            for name, (_, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *options]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean `{near[0]}`?", ctx) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("lacuna"), prog_name="lacuna")
def cli() -> None:
    """How sparse should my model be?

    Lacuna trains the grid of pruned models that the answer needs, fits the sparsity scaling law L(S, N, D) and
    serves coefficients, predictions and the optimal sparsity.

    \b
      lacuna run examples/quickstart.yaml
      lacuna law quickstart
      lacuna optimum --sweep quickstart --params 1e6 --flops 1e15
    """


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted."""
    try:
        for name, value in Settings.from_environment().library_environment.items():
            os.environ.setdefault(name, value)
        # Outside of its standalone mode click returns the code that a command leaves with.
        code = cli(standalone_mode=False, prog_name="lacuna", complete_var=COMPLETE_VARIABLE)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        known = _known(error)
        if known is None:
            raise
        click.echo(str(error), err=True)
        sys.exit(known)


def _known(error: Exception) -> int | None:
    """Exit code of the project's own errors, whose text is the whole message; None for a defect of ours."""
    # By name: importing the packages that define them would cost every command their start-up time.
    wrong_input = {
        "SpecError",
        "SweepExists",
        "TableError",
        "NotIdentifiedError",
        "SettingError",
        "DocumentError",
    }
    wrong_input |= {"DataError", "ShapeError", "ProgramError", "InputError", "TokenError", "PoolError"}
    wrong_input |= {"Refused", "NoSuchSweep"}
    failed = {"LedgerError", "TrackingError", "FitError", "TrainerError", "RayError", "ClientError"}
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & wrong_input:
        return 2
    return 1 if names & failed else None


if __name__ == "__main__":
    main()
