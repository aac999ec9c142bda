"""`lacuna completion SHELL`: the script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
      lacuna completion bash > ~/.local/share/bash-completion/completions/lacuna
      lacuna completion zsh  > ~/.zfunc/_lacuna
      lacuna completion fish > ~/.config/fish/completions/lacuna.fish
    """
    from orchestrator.command.main import COMPLETE_VARIABLE, cli

    made = get_completion_class(shell)
    assert made is not None  # of the choices above
    click.echo(made(cli, {}, "lacuna", COMPLETE_VARIABLE).source())
