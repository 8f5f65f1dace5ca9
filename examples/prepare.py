"""Makes `examples/data` from the public data sets: `python examples/prepare.py FOLDER`, the folder that holds

    online-retail/online-retail.csv.zst                             purchases and refunds of a shop
    ethereum-tx/transactions_03300000_03399999_small.csv.gz         transfers between accounts
    boa-cfpb-complaints/boa_complaints.csv.gz                       complaints
    apache-logs/apache_logs.gz                                      a web log

Each output line is an envelope. The same inputs give the same bytes. Nothing is drawn, invented or mended: what is
missing in the data stays missing and becomes a dead letter. Decimals are exact.
"""

import csv
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

OUT = Path(__file__).parent / "data"
WEI_DIGITS = 18
LOG_LINE = re.compile(
    r'(?P<ip>\S+) \S+ \S+ \[(?P<time>[^]]+)\] "(?P<method>[A-Z]+) (?P<path>\S+) [^"]*" (?P<status>\d{3}) \S+ '
    r'"[^"]*" "(?P<agent>[^"]*)"?'
)

Row = dict[str, str]
Envelope = dict[str, Any]


def envelope(application: str, event_id: str, **data: Any) -> Envelope:
    """An envelope; what is empty or None is left out."""
    kept = {name: value for name, value in data.items() if value not in (None, "")}
    return {"ApplicationRef": application, "id": event_id, "data": kept}


def rows_of_gzip(path: Path) -> Iterator[Row]:
    """The rows of a gzipped CSV file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def write(name: str, envelopes: Iterable[Envelope]) -> None:
    """Write one envelope a line, gzipped, with no time or name in the header."""
    lines = [json.dumps(e, ensure_ascii=False, separators=(",", ":")) for e in envelopes]
    packed = gzip.compress("".join(line + "\n" for line in lines).encode(), compresslevel=9, mtime=0)
    (OUT / name).write_bytes(packed)
    print(f"{name}: {len(lines)} lines, {len(packed)} bytes")


def invoices(path: Path) -> dict[str, Envelope]:
    """The shop's invoices by number: the first time, the customer, the exact sum of the lines."""
    found: dict[str, Envelope] = {}
    text = pl.read_csv(path, infer_schema=False)
    columns = ("InvoiceNo", "Quantity", "UnitPrice", "InvoiceDate", "CustomerID", "Country")
    for number, quantity, price, time, customer, country in text.select(columns).iter_rows():
        invoice = found.setdefault(
            number, {"time": time, "customer": customer, "country": country, "sum": Decimal(0), "lines": 0}
        )
        invoice["time"] = min(invoice["time"], time)
        invoice["sum"] += int(quantity) * Decimal(price)
        invoice["lines"] += 1
    return dict(sorted(found.items(), key=lambda item: item[1]["time"]))


def utc(time: str) -> str:
    """A time as the file has it, read as UTC."""
    return time.replace(" ", "T") + "Z"


def retail_purchases(path: Path) -> Iterator[Envelope]:
    """The invoices that are no cancellation. Movements of stock (no customer, sum 0) are no purchases: left out."""
    for number, invoice in invoices(path).items():
        if number.startswith("C") or (invoice["customer"] is None and invoice["sum"] == 0):
            continue
        yield envelope(
            "shop",
            number,
            transaction_id=number,
            event_time=utc(invoice["time"]),
            from_party=customer_number(invoice["customer"]),
            to_party="online-retail",
            to_kind="merchant",
            amount=f"{invoice['sum']:f}",
            currency="GBP",
            country=invoice["country"],
            lines=invoice["lines"],
        )


def retail_refunds(path: Path) -> Iterator[Envelope]:
    """The cancellations, with the sign turned round: what was given back."""
    for number, invoice in invoices(path).items():
        if number.startswith("C"):
            yield envelope(
                "refunds",
                number,
                refund_id=number,
                event_time=utc(invoice["time"]),
                customer=customer_number(invoice["customer"]),
                merchant="online-retail",
                amount=f"{-invoice['sum']:f}",
                currency="GBP",
                country=invoice["country"],
                lines=invoice["lines"],
            )


def customer_number(text: str | None) -> str | None:
    """The number of a customer, which the file writes as a float."""
    return None if text is None else text.removesuffix(".0")


def ether(wei: str) -> str:
    """Ether from wei, exactly."""
    digits = wei.rjust(WEI_DIGITS + 1, "0")
    fraction = digits[-WEI_DIGITS:].rstrip("0")
    return digits[:-WEI_DIGITS] + (f".{fraction}" if fraction else "")


def ethereum_transfers(path: Path) -> Iterator[Envelope]:
    """The transfers in the order of their blocks, which is that of event time."""
    rows = sorted(rows_of_gzip(path), key=lambda row: (int(row["block_number"]), int(row["transaction_index"])))
    for row in rows:
        yield envelope(
            "wallet",
            row["hash"],
            transaction_id=row["hash"],
            event_time=datetime.fromtimestamp(int(row["block_timestamp"]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            from_party=row["from_address"],
            to_party=row["to_address"],
            amount=ether(row["value"]),
            currency="ETH",
            block_number=int(row["block_number"]),
        )


def complaints(path: Path) -> Iterator[Envelope]:
    """The complaints in the order in which the bank received them; the event is when the customer submitted it."""
    rows = sorted(rows_of_gzip(path), key=lambda row: (row["Date received"], int(row["Complaint ID"])))
    for row in rows:
        yield envelope(
            "support",
            row["Complaint ID"],
            contact_id=row["Complaint ID"],
            event_time=f"{row['Date submitted']}T00:00:00Z",
            region=row["State"],
            channel=row["Submitted via"],
            kind="complaint",
            product=row["Product"],
            issue=row["Issue"],
        )


def web_requests(path: Path) -> Iterator[Envelope]:
    """The requests in the order of the log, which is not that of their times."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            match = LOG_LINE.match(line)
            if match is None:
                raise SystemExit(f"{path} line {number}: not a line of a web log: {line[:80]!r}")
            time = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC)
            yield envelope(
                "web",
                f"apache_logs:{number}",
                event_time=time.strftime("%Y-%m-%dT%H:%M:%SZ"),
                ip=match["ip"],
                user_agent=None if match["agent"] == "-" else match["agent"].rstrip("\n"),
                path=match["path"],
                status=int(match["status"]),
                method=match["method"],
            )


def main(arguments: list[str]) -> None:
    """Make all files."""
    if len(arguments) != 1:
        raise SystemExit("usage: python examples/prepare.py FOLDER")
    folder = Path(arguments[0])
    retail = folder / "online-retail" / "online-retail.csv.zst"
    OUT.mkdir(exist_ok=True)
    write("purchase-online-retail.ndjson.gz", retail_purchases(retail))
    ethereum = folder / "ethereum-tx" / "transactions_03300000_03399999_small.csv.gz"
    write("purchase-ethereum.ndjson.gz", ethereum_transfers(ethereum))
    write("refund-online-retail.ndjson.gz", retail_refunds(retail))
    write("customer-service-complaints.ndjson.gz", complaints(folder / "boa-cfpb-complaints" / "boa_complaints.csv.gz"))
    write("browser-weblog.ndjson.gz", web_requests(folder / "apache-logs" / "apache_logs.gz"))


if __name__ == "__main__":
    main(sys.argv[1:])
