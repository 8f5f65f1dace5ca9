"""`paystorm keys`: the API keys of the ingest service."""

from typing import Annotated, Any

import typer

from paystorm.cli.common import DataOption, EnvOption, JsonOption, iso, open_here, out, show_json, table, user
from paystorm.cli.lists import expiry
from paystorm.errors import UsageError
from paystorm.ingest.keys import ROLES, ApiKey, all_keys, make_key, revoke_key

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys of the ingest service.")


def _plain(key: ApiKey) -> dict[str, Any]:
    def at(time: int | None) -> str | None:
        return None if time is None else iso(time)

    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "applications": None if key.applications is None else list(key.applications),
        "made_at": at(key.made_at),
        "made_by": key.made_by,
        "expires_at": at(key.expires_at),
        "revoked_at": at(key.revoked_at),
        "revoked_by": key.revoked_by,
    }


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is or what it is for.")],
    application: Annotated[
        list[str] | None, typer.Option(metavar="REF", help="An application that it is for (may be repeated).")
    ] = None,
    role: Annotated[str, typer.Option(metavar="|".join(ROLES), help="What it may do.")] = "ingest",
    all_applications: Annotated[bool, typer.Option("--all-applications", help="It is for all applications.")] = False,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="7d|TIME", help="When it ends: 30m, 12h, 7d, or an ISO time.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who; default: the user of this system.")
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: this once, only its hash is kept."""
    if role not in ROLES:
        raise UsageError(f"--role must be one of {', '.join(ROLES)}, got {role!r}")
    if bool(application) == all_applications:
        raise UsageError("name the applications with --application REF, or --all-applications: one of the two")
    with open_here(env, data) as here:
        for ref in application or ():
            if ref not in here.env.applications:
                there = ", ".join(sorted(here.env.applications)) or "none"
                raise UsageError(f"--application {ref}: not configured; there are {there}")
        now = here.resources.clock.now()
        key, text = make_key(
            here.resources.tables,
            name=name,
            role=role,
            applications=None if all_applications else tuple(dict.fromkeys(application or ())),
            now=now,
            by=by or user(),
            expires_at=expiry(expires, now),
        )
    if as_json:
        show_json({**_plain(key), "key": text})
    else:
        print(text)


@app.command("list")
def list_keys(env: EnvOption = "local", data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show the keys that were made, without their text."""
    with open_here(env, data) as here:
        rows = [_plain(key) for key in sorted(all_keys(here.resources.tables), key=lambda k: (k.made_at, k.id))]
    if as_json:
        show_json(rows)
        return
    columns = ("id", "name", "role", "applications", "made_at", "made_by", "expires_at", "revoked_at")
    for row in rows:
        row["applications"] = "all" if row["applications"] is None else ", ".join(row["applications"])
    out().print(table("API keys", columns, ([row[c] for c in columns] for row in rows)))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as paystorm keys list shows it.")],
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who; default: the user of this system.")
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Revoke a key: a running service refuses it within a second."""
    with open_here(env, data) as here:
        key = revoke_key(here.resources.tables, key_id, now=here.resources.clock.now(), by=by or user())
    print(f"API key {key.id} ({key.name}) is revoked")


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="keys")
