"""JSON objects from clients, read strictly."""

from paystorm.ingest.problems import Problem
from paystorm.validity.strict import Member, NotJsonError, read_outermost


def read_object(piece: bytes) -> tuple[str, list[Member]] | Problem:
    """The text and the members of a JSON object."""
    try:
        text = piece.decode()
        members = read_outermost(text)
    except UnicodeDecodeError as error:
        return Problem("not_json", f"not UTF-8: {error.reason} at byte {error.start}")
    except (NotJsonError, RecursionError) as error:
        deep = isinstance(error, RecursionError) or "nested" in str(error)
        return Problem("too_deep" if deep else "not_json", str(error)[:200] if str(error) else "nested too deeply")
    if members is None:
        return Problem("invalid_envelope", "an event must be an object", extra={"field": "envelope"})
    return text, members
