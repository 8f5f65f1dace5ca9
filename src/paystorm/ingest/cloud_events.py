"""CloudEvents 1.0 in JSON (structured and batch) as events: `source` is the application, `id` the id.

An extension attribute `applicationref` names the application where `source` is a URI of another kind. The other
attributes describe the transport and are not kept; `data` is.
"""

from paystorm.ingest.objects import read_object
from paystorm.ingest.problems import Problem
from paystorm.source import ID_MAX
from paystorm.validity.strict import Member

_JSON = ("application/json", "text/json")


def read_cloud_event(piece: bytes) -> tuple[str, str, bytes] | Problem:
    """Application, id and data of a CloudEvent, or what is wrong with it."""
    read = read_object(piece)
    if isinstance(read, Problem):
        return read
    text, found = read
    members: dict[str, Member] = {}
    for member in found:
        if member.key in members:
            return _wrong(member.key, "stands more than once")
        members[member.key] = member
    texts: dict[str, str] = {}
    for name in ("specversion", "id", "source", "type", "applicationref", "datacontenttype"):
        value = members[name].value if name in members else None
        if value is None and name in ("applicationref", "datacontenttype"):
            continue
        if type(value) is not str or not value:
            return _wrong(name, "must be a string of at least one character")
        texts[name] = value
    if texts["specversion"] != "1.0":
        return _wrong("specversion", f"must be 1.0, got {texts['specversion'][:20]!r}")
    kind = texts.get("datacontenttype", "application/json").partition(";")[0].strip().lower()
    if kind not in _JSON and not kind.endswith("+json"):
        return _wrong("datacontenttype", f"must be JSON, got {kind[:80]!r}")
    if "data_base64" in members:
        return _wrong("data_base64", "is not taken: data must be a JSON object")
    data = members.get("data")
    if data is None or type(data.value) is not tuple:
        return _wrong("data", "must be an object")
    application = texts.get("applicationref", texts["source"])
    for name, value in (("id", texts["id"]), ("source", application)):
        if len(value) > ID_MAX:
            return _wrong(name, f"must have at most {ID_MAX} characters, got {len(value)}")
    return application, texts["id"], text[data.start : data.end].encode()


def _wrong(field: str, detail: str) -> Problem:
    return Problem("invalid_envelope", f"{field}: {detail}", extra={"field": field})
