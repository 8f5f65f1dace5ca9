"""What sparse calls around a submit (its hooks). A bad option is refused here, before anything is uploaded."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "src"))

from paystorm.submit import check_submit


def pre_submit(topology_name: str, env_name: str, env_config: dict[str, Any], options: dict[str, Any]) -> None:
    """Check the options of config.json and -o together. Ends sparse with one line and code 2 where one is bad."""
    check_submit(Path(__file__).parent, topology_name, env_name, options)
