"""A source guessed from a sample. Every guess comes with its reason, which the topology file repeats."""

import re
from collections import Counter
from decimal import Decimal
from ipaddress import ip_address
from typing import Any

from paystorm.clock import SECOND
from paystorm.errors import UsageError
from paystorm.rules import Rule
from paystorm.scaffold.draft import Draft
from paystorm.scaffold.sample import NAME, Column, Sample, typed
from paystorm.source import ID_MAX, RESERVED, TEXT_MAX, Field, Party, Source
from paystorm.validity.codes import Code
from paystorm.validity.scalars import read_amount, read_integer, read_time

Guesses = dict[tuple[str, str], str]
DAY = 86_400 * SECOND
KINDS: tuple[tuple[str, str, str], ...] = (
    ("account", "sender", r"from|from_party|from_account|sender|payer|debtor|source_account|nameorig"),
    ("account", "receiver", r"to|to_party|to_account|receiver|recipient|payee|creditor|beneficiary|namedest"),
    ("account", "customer", r"customer|client|cust|buyer|cc|card|card_number|pan|iban"),
    ("account", "account", r"account|user|member|username|login|subscriber"),
    ("merchant", "merchant", r"merchant|shop|seller|store|vendor|retailer|terminal"),
    ("device", "device", r"device|fingerprint|imei|device_fingerprint|phone_id"),
    ("ip", "ip", r"ip|ip_address|ipaddr|client_ip|remote_addr|source_ip|src_ip"),
    ("agent", "agent", r"agent|employee|operator|clerk|representative"),
    ("region", "region", r"region|state|country|city|zip|zipcode|postcode|postal_code|county"),
)
"""Kind, role and the names (but for a trailing id, no, number, ref) of fields that are likely parties."""
TIMES = ("event_time", "timestamp", "time", "occurred_at", "created_at", "datetime", "date", "ts")
AMOUNTS = re.compile(r"amount|amt|price|total|sum|value|cost|fee|paid|charge|balance|revenue", re.IGNORECASE)
CURRENCIES = re.compile(r"currency|ccy|curr|currency_code", re.IGNORECASE)
IDS = re.compile(r"(^|_)(id|uuid|guid|ref|key|number|num|no|hash)$")
UNIQUE = 10
"""Texts without spaces of which no two are equal, in at least so many records, are ids."""
CHOICES, CHOICE_RECORDS, CHOICE_CHARS = 6, 50, 24
"""A choice has two values to so many, in at least so many records, of at most so many characters."""
MIN_LIMIT = 10
TIMES_THE_HIGHEST = 3


def guess(name: str, topic: str, sample: Sample) -> Draft:
    """The source that a sample seems to be of. Raises UsageError where no field can be the event time."""
    fields: list[Field] = []
    guesses: Guesses = {}
    left_out: dict[str, str] = {}
    notes: list[str] = []
    times = {c.name: kind for c in sample.columns if (kind := _time_of(c, len(sample.records))) is not None}
    event_time = _event_time(sample, times)
    for column in sample.columns:
        made = _field(column, sample, event_time, [f.name for f in fields])
        if isinstance(made, str):
            left_out[column.name] = made
            continue
        if made.type == "currency" and any(f.type == "currency" for f in fields):
            made = Field(name=made.name, type="text", required=made.required)
        fields.append(made)
        guesses["field", made.name] = _evidence(column, made, len(sample.records))
    by_name = {column.name: column for column in sample.columns}
    own_id = _own_id(fields, by_name, len(sample.records))
    parties = _parties(fields, by_name, own_id, guesses)
    whole = {f.name for f in fields if f.type == "integer"}
    records = list(typed(sample.records, whole))
    rules = _rules(fields, parties, event_time, records, guesses)
    guesses["source", "event_time"] = "a time in every record"
    if own_id is not None:
        guesses["source", "own_id"] = "another value in every record"
    source = Source(
        name=name,
        topic=topic,
        enforces=False,
        fields=tuple(fields),
        parties=tuple(parties),
        event_time=event_time,
        own_id=own_id,
        rules=tuple(rules),
        doc=f"Records of {name}, as in a sample of {len(records):,}.",
    )
    if sample.broken:
        notes.append(f"{sample.file}: {sample.broken:,} lines are no records and were passed over")
    if any(f.type == "amount" for f in fields) and source.currency() is None:
        notes.append("no field is a currency: amounts without one are in no sum")
    return Draft(source, guesses, left_out, records, notes)


# Types.


def _time_of(column: Column, records: int) -> bool | None:
    """Whether a column's times have no zone; None: it holds no times, or not in every record."""
    if len(column.values) != records or not all(isinstance(value, str) for value in column.values):
        return None
    if any(isinstance(read_time(value, True), Code) for value in column.values):
        return None
    return any(isinstance(read_time(value, False), Code) for value in column.values)


def _event_time(sample: Sample, times: dict[str, bool]) -> str:
    usable = [name for name in times if NAME.fullmatch(name) and (name not in RESERVED or name == "event_time")]
    if not usable:
        raise UsageError(
            f"{sample.file}: no field is a time (RFC 3339, such as 2026-01-01T10:00:00Z) in every record: mend the "
            "sample, or declare the fields with --field"
        )
    return min(usable, key=lambda n: (TIMES.index(n.lower()) if n.lower() in TIMES else len(TIMES), usable.index(n)))


def _field(column: Column, sample: Sample, event_time: str, taken: list[str]) -> Field | str:
    """The field that a column seems to be, or why it is not declared."""
    name, values = column.name, column.values
    required = len(values) == len(sample.records)
    if NAME.fullmatch(name) is None:
        return "its name cannot be a column's"
    if name in RESERVED and name != event_time:
        return "the warehouse has a column of that name"
    if name.lower() in (other.lower() for other in taken):
        return "another field has that name but for upper and lower case"
    if _time_of(column, len(values)) is not None:
        return Field(name=name, type="time", required=required, zoneless_utc=bool(_time_of(column, len(values))))
    if all(isinstance(value, str) for value in values):
        return _text_field(column, required, from_csv=bool(sample.file.lower().removesuffix(".gz").endswith(".csv")))
    if any(isinstance(value, bool | list | dict) for value in values):
        return "it holds true or false, lists or objects"
    if any(isinstance(value, str) for value in values):
        return "it holds text and numbers"
    if not AMOUNTS.search(name) and all(isinstance(read_integer(str(value)), int) for value in values):
        return Field(name=name, type="integer", required=required)
    if all(isinstance(read_amount(str(value), 20, 18), Decimal) for value in values):
        return Field(name=name, type="amount", required=required)
    return "its numbers are negative, or too long for an amount"


def _text_field(column: Column, required: bool, *, from_csv: bool) -> Field | str:
    name, values = column.name, column.values
    longest = max(len(value) for value in values)
    if longest > TEXT_MAX:
        return f"its text has up to {longest:,} characters"
    party = party_kind(name) is not None
    figures = all(isinstance(read_amount(value, 20, 18), Decimal) for value in values)
    if figures and not party and not IDS.search(snake(name)):
        if AMOUNTS.search(name) or any("." in value for value in values):
            return Field(name=name, type="amount", required=required)
        if from_csv and all(isinstance(read_integer(value), int) for value in values):
            return Field(name=name, type="integer", required=required)
    if CURRENCIES.fullmatch(name) and all(re.fullmatch(r"[A-Za-z]{3,5}", value) for value in values):
        return Field(name=name, type="currency", required=required)
    fits = all(1 <= len(value) <= ID_MAX for value in values)
    alone = column.distinct == len(values) >= UNIQUE and all(re.fullmatch(r"[!-~]{1,64}", value) for value in values)
    if fits and (party or IDS.search(snake(name)) or _is_ip(values) or alone):
        return Field(name=name, type="id", required=required)
    few = 1 < column.distinct <= CHOICES and len(values) >= CHOICE_RECORDS and longest <= CHOICE_CHARS
    if few and all(re.fullmatch(r"[\w-]+", value) for value in values):
        return Field(name=name, type="choice", required=required, values=tuple(sorted(set(values))))
    return Field(name=name, type="text", required=required)


def _is_ip(values: list[Any]) -> bool:
    try:
        return all(ip_address(value) is not None for value in values)
    except ValueError:
        return False


def _evidence(column: Column, field: Field, records: int) -> str:
    """Why a field is declared as it is, in a few words."""
    text = f"{field.type}; in {len(column.values):,} of {records:,} records, {column.distinct:,} different"
    if field.type == "choice":
        text += "; any other value is dead-lettered"
    if field.zoneless_utc:
        text += "; without a zone, read as UTC"
    return text


# Parties and the source's own id.


def snake(name: str) -> str:
    """The name in lower case, its words parted by _."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def party_kind(name: str) -> tuple[str, str] | None:
    """(kind, role) of the party that a field of this name seems to hold."""
    plain = snake(name)
    short = re.sub(r"_?(id|no|num|number|ref|name|hash)$", "", plain)
    for kind, role, names in KINDS:
        if re.fullmatch(names, plain) or re.fullmatch(names, short):
            return kind, role
    return None


def _own_id(fields: list[Field], columns: dict[str, Column], records: int) -> str | None:
    """The id that is another in every record, and no party's."""
    if records < 2:
        return None
    for field in fields:
        column = columns[field.name]
        if field.type == "id" and field.required and column.distinct == records and party_kind(field.name) is None:
            return field.name
    return None


def _parties(fields: list[Field], columns: dict[str, Column], own_id: str | None, guesses: Guesses) -> list[Party]:
    parties: list[Party] = []
    for field in fields:
        if field.type != "id" or field.name == own_id:
            continue
        column = columns[field.name]
        figures = f"{column.distinct:,} different in {len(column.values):,} records"
        known = party_kind(field.name) or (("ip", "ip") if _is_ip(column.values) else None)
        if known is not None:
            kind, role = known
            why = f"by its name; {figures}"
        elif 1 < column.distinct <= len(column.values) // 2:
            kind = role = re.sub(r"_?(id|ref|key|number|num|no|hash)$", "", field.name.lower()) or field.name.lower()
            why = f"its values come again; {figures}"
        else:
            continue
        if any((p.kind, p.role) == (kind, role) for p in parties):
            role = field.name
        parties.append(Party(field=field.name, role=role, kind=kind))
        guesses["party", field.name] = why
    return parties


# Rules.


def _rules(
    fields: list[Field], parties: list[Party], event_time: str, records: list[dict[str, Any]], guesses: Guesses
) -> list[Rule]:
    """Limits of some times the highest figure of the sample, all with the action review."""
    rules: list[Rule] = []
    time = next(f for f in fields if f.name == event_time)
    days = [_day(record.get(event_time), time.zoneless_utc) for record in records]
    for kind in dict.fromkeys(p.kind for p in parties):
        if kind == "region":
            continue
        mine = [p.field for p in parties if p.kind == kind]
        seen: Counter[tuple[str, int]] = Counter()
        for record, day in zip(records, days, strict=True):
            seen.update({(record[f], day) for f in mine if isinstance(record.get(f), str)})
        highest = max(seen.values(), default=0)
        limit = _rounded_up(max(MIN_LIMIT, TIMES_THE_HIGHEST * highest))
        rules.append(Rule(name=_word(f"{kind}_per_day"), kind=kind, interval="1d", limit=limit, action="review"))
        guesses["rule", rules[-1].name] = f"{TIMES_THE_HIGHEST} times the sample's highest, {highest:,}"
    amount = next((f.name for f in fields if f.type == "amount"), None)
    currency = next((f.name for f in fields if f.type == "currency"), None)
    spender = next((p for p in parties if p.kind == "account" and p.role != "receiver"), None)
    if amount and currency and spender:
        sums: dict[tuple[str, int, str], Decimal] = {}
        for record, day in zip(records, days, strict=True):
            if all(record.get(name) is not None for name in (spender.field, amount, currency)):
                place = record[spender.field], day, record[currency]
                sums[place] = sums.get(place, Decimal(0)) + Decimal(str(record[amount]))
        highest_of: dict[str, Decimal] = {}
        for (_, _, code), figure in sums.items():
            highest_of[code] = max(highest_of.get(code, Decimal(0)), figure)
        limits = {c: str(_rounded_up(int(TIMES_THE_HIGHEST * h) + 1)) for c, h in sorted(highest_of.items())}
        if limits:
            name = _word(f"{spender.role}_{amount}_per_day")
            rules.append(
                Rule(
                    name=name,
                    kind=spender.kind,
                    role=spender.role,
                    measure="sum",
                    field=amount,
                    interval="1d",
                    limit=limits,
                    action="review",
                )
            )
            guesses["rule", name] = f"{TIMES_THE_HIGHEST} times the sample's highest sum of a day"
    return rules


def _day(value: Any, zoneless_utc: bool) -> int:
    moment = read_time(value, zoneless_utc)
    return 0 if isinstance(moment, Code) else moment // DAY


def _rounded_up(figure: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, … from a figure on."""
    scale = 1
    while True:
        for digit in (1, 2, 5):
            if digit * scale >= figure:
                return digit * scale
        scale *= 10


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_").lower()
