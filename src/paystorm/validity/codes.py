"""The closed list of what can be wrong with a record (docs/validity.md)."""

from enum import StrEnum


class Code(StrEnum):
    """Why a record was dead-lettered. A member is the text that is stored; `MEANING` says it to people."""

    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    REPEATED = "repeated"
    MISSING = "missing"
    WRONG_TYPE = "wrong_type"
    EMPTY = "empty"
    TOO_LONG = "too_long"
    NOT_ALLOWED = "not_allowed"
    NOT_A_NUMBER = "not_a_number"
    NEGATIVE = "negative"
    TOO_MANY_DIGITS = "too_many_digits"
    NOT_AN_INTEGER = "not_an_integer"
    BAD_TIME = "bad_time"
    NO_ZONE = "no_zone"
    TOO_EARLY = "too_early"
    TOO_LATE = "too_late"
    TOO_OLD = "too_old"
    WRONG_REPLAY = "wrong_replay"
    DUPLICATE_REPLAY = "duplicate_replay"
    GAVE_UP = "gave_up"


MEANING: dict[Code, str] = {
    Code.TOO_LARGE: "The record has more bytes than maxRecordBytes allows.",
    Code.NOT_UTF8: "The record's bytes are not UTF-8.",
    Code.NOT_JSON: "The record is not strict JSON (RFC 8259), holds a lone surrogate or a byte order mark, "
    "or is nested deeper than 64.",
    Code.REPEATED: "The key stands twice or more.",
    Code.MISSING: "A required value is absent or null.",
    Code.WRONG_TYPE: "The value is of another JSON type than the one declared.",
    Code.EMPTY: "The value is the empty string.",
    Code.TOO_LONG: "The value has more characters than its type allows.",
    Code.NOT_ALLOWED: "The value is not one of the choices.",
    Code.NOT_A_NUMBER: "The text of the amount is not a number.",
    Code.NEGATIVE: "The amount is below zero.",
    Code.TOO_MANY_DIGITS: "The amount has more integer or fraction digits than declared.",
    Code.NOT_AN_INTEGER: "The number is not a whole number within 64 bits.",
    Code.BAD_TIME: "The time is not an RFC 3339 time that exists.",
    Code.NO_ZONE: "The time has no zone, and the source does not say that such times are UTC.",
    Code.TOO_EARLY: "The event time is before the earliest that the source takes.",
    Code.TOO_LATE: "The event time is further ahead of received_at than maxAhead.",
    Code.TOO_OLD: "The event is older, at its receipt, than counts are kept.",
    Code.WRONG_REPLAY: "replay_of does not name an earlier record of the record's own topic and partition.",
    Code.DUPLICATE_REPLAY: "A record of a lower offset has replayed the same record before.",
    Code.GAVE_UP: "The record could not be processed, however often it was tried.",
}
"""A sentence for people, for each code."""
