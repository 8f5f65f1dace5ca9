"""`paystorm generate`: made-up purchases for trials of a new installation, as NDJSON for `send`."""

import sys
from typing import Annotated

import typer

from paystorm.generate import purchase_blocks

MAX_RECORDS = 1_000_000_000


def generate(
    records: Annotated[int, typer.Argument(min=1, max=MAX_RECORDS, help="How many records.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same records.")] = 1,
    days: Annotated[float, typer.Option(min=0.001, max=3650, help="Days that the event times are spread over.")] = 1.0,
    malformed: Annotated[float, typer.Option(min=0, max=1, help="Share of records that are not valid.")] = 0.001,
) -> None:
    """Print made-up purchases, a record a line: 200,000 parties with a heavy tail, event times going up.

    `paystorm generate 500000 | paystorm send purchase -` fills a log for a trial.
    """
    for block in purchase_blocks(records, seed=seed, days=days, malformed=malformed):
        sys.stdout.buffer.write(block.values)
    sys.stdout.buffer.flush()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(generate)
