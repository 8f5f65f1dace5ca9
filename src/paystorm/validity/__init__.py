"""Which records are valid events, and what is wrong with the others (docs/validity.md). Pure: no I/O, no clock."""

from paystorm.validity.codes import MEANING, Code
from paystorm.validity.envelope import ReplayOf
from paystorm.validity.exact import Event, ExactValidator, Invalid
from paystorm.validity.frame import event_frame, event_schema
from paystorm.validity.settings import ValiditySettings
from paystorm.validity.validate import Validator, replay_claims

__all__ = [
    "MEANING",
    "Code",
    "Event",
    "ExactValidator",
    "Invalid",
    "ReplayOf",
    "Validator",
    "ValiditySettings",
    "event_frame",
    "event_schema",
    "replay_claims",
]
