"""The desk of a command's project and environment."""

from paystorm.cli.common import Here
from paystorm.desk import Desk
from paystorm.desk.base import approvals_of


def desk_of(here: Here) -> Desk:
    """The desk over what `open_here` opened. Raises ConfigError where `approvals` of config.json cannot be meant."""
    approvals = approvals_of(here.project.config, here.env.plain, here.env.name)
    return Desk(here.resources, here.sources(), here.env.options, approvals)
