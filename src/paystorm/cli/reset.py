"""`paystorm reset`: lets a source go on whose topic no longer fits what was read of it."""

from typing import Annotated

import typer

from paystorm.cli.common import DataOption, EnvOption, open_here, user
from paystorm.errors import UsageError
from paystorm.reset import look, reset_source


def reset(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what it would do.")] = False,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who; default: the user.")] = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Go on with a topic that was deleted and made again, or that has lost offsets before they were processed.

    What was stored and counted stays. The partitions of a topic that was made anew are counted on from those of the
    former one, so that no new record is taken for an old one. Stop the source first.
    """
    with open_here(env, data) as here:
        found = look(here.resources, here.source(source))
        if not found:
            print(f"{source}: the topic fits what was read of it: nothing to reset")
            return
        running = here.running().get(source) if yes else None
        if running is not None:
            raise UsageError(f"source {source} is running ({running}): stop it first")
        for line in found.lines():
            print(f"{source}: {line}")
        if not yes:
            print(f"nothing was changed; to do it: paystorm reset {source} --yes")
            return
        reset_source(here.resources, here.source(source), found, by or user())
        print(f"{source}: done; start it again")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reset)
