"""One strict reader for the CSV files that users bring: catalogues and traces.

A table is UTF-8 text with commas between cells, one header line and one row per line. Read as they are: a byte-order
mark, Windows or old Mac line ends, quoted cells, spaces around cells, blank lines, a last line without an end. Refused
in one sentence that names the file, the line, the column and the cause: everything that other readers guess about,
because a guess changes numbers silently. Runs on the host.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from envs.errors import InputError, nearest

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}([,'’_\s]\d{3})+(\.\d*)?")
_GROUPED_WITH_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,3}(([.'’_\s]\d{3})+,\d+|(\.\d{3}){2,})")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_QUOTED_CELL = re.compile(r'\s*"((?:[^"]|"")*)"\s*(,|$)')
_LINE_END = re.compile(r"\r\n|\r|\n")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "pipes", " ": "spaces"}
_FORMATS = {  # the first bytes of what is mistaken for CSV
    b"\xff\xfe\x00\x00": "UTF-32 text; save it as CSV in UTF-8",
    b"\x00\x00\xfe\xff": "UTF-32 text; save it as CSV in UTF-8",
    b"\xff\xfe": "UTF-16 text; save it as CSV in UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as CSV in UTF-8",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"(\xb5/\xfd": "a Zstandard archive; unpack it",
    b"PK": "an Excel workbook or another ZIP archive; export its table as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; export its table as CSV",
    b"PAR1": "a Parquet file; export it as CSV",
    b"ARROW1": "an Arrow file; export it as CSV",
    b"\x89HDF": "an HDF5 file; export its table as CSV",
    b"\x93NUMPY": "a NumPy file; export it as CSV",
    b"SQLite format": "an SQLite database; export its table as CSV",
    b"%PDF": "a PDF file; export its table as CSV",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cells of a file, stripped of the spaces around them, with the line that each row stands on."""

    path: str
    columns: dict[str, list[str]]  # name -> one cell per row
    lines: list[int]

    def fault(self, row: int, column: str, message: str) -> InputError:
        """The error of one cell."""
        return InputError(f"{self.path}, line {self.lines[row]}, column {column!r}: {message}")

    def numbers(self, column: str, holds: Callable[[float], bool], wanted: str) -> np.ndarray:
        """[rows] float64, a column in which every cell must be a finite number that ``holds``; ``wanted`` says which.

        Raises:
            InputError: names the first cell that is no such number.
        """
        numbers = []
        for row, cell in enumerate(self.columns[column]):
            number = finite(cell)
            if number is None:
                raise self.fault(row, column, _why_no_number(cell))
            if not holds(number):
                raise self.fault(row, column, f"{cell} must be {wanted}")
            numbers.append(number)
        return np.array(numbers, dtype=np.float64)


def finite(cell: str) -> float | None:
    """The number in a cell, None where it holds none: only digits, a decimal point and an exponent make a number.

    >>> finite("1e-4"), finite("1_000"), finite("inf"), finite("1e-999")
    (0.0001, None, None, None)
    """
    if not _NUMBER.fullmatch(cell):
        return None
    number = float(cell)
    vanished = number == 0 and any(digit in "123456789" for digit in cell.lower().partition("e")[0])
    return None if vanished or not isfinite(number) else number


def parse(
    content: bytes, path: str, required: Sequence[str], *, row: str, where: str = "", skip_empty: bool = True
) -> Table:
    """Cut the content of a file into a table.

    Args:
        content: the bytes of the file.
        path: its name, for messages.
        required: columns that must be there.
        row: what one row describes, for messages.
        where: the setting that names the columns, for messages.
        skip_empty: whether rows of nothing but empty cells are skipped like blank lines, which they always are at the
            end of a file. Where rows are intervals of time, such a row is a missing interval.

    Raises:
        InputError: the first fault of the file.
    """
    lines = [(number, line) for number, line in enumerate(_LINE_END.split(_text(content, path)), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty; it needs a header with the columns {', '.join(required)}, then {row}s")
    header = _header(lines[0][1], path, lines[0][0], required, where)
    rows = [(number, _cells(line, path, number, header)) for number, line in lines[1:]]
    while rows and not any(rows[-1][1]):
        rows.pop()
    if skip_empty:
        rows = [(number, cells) for number, cells in rows if any(cells)]
    if not rows:
        raise InputError(f"{path} has a header and no {row}s; add one line per {row}")
    for number, cells in rows:
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number}{_why_uneven(cells, header)}")
    columns = {name: [cells[i] for _, cells in rows] for i, name in enumerate(header)}
    return Table(path=path, columns=columns, lines=[number for number, _ in rows])


# Encoding.
def _text(content: bytes, path: str) -> str:
    """The text of a file, or an InputError that says what the file is in place of UTF-8 text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _foreign(content, path) or _not_utf8(content, error.start, path) from None
    if "\0" in text:
        # Western text in UTF-16 has a zero in every second byte.
        wide = content.count(b"\0") > len(content) // 4
        cause = "it seems to be UTF-16" if wide else "it is damaged, or no text"
        line = len(_LINE_END.split(text[: text.index("\0")]))
        raise _foreign(content, path) or InputError(
            f"{path}, line {line}: a NUL byte, so the file is not UTF-8 text ({cause}); save it as CSV in UTF-8"
        )
    return text


def _foreign(content: bytes, path: str) -> InputError | None:
    """The error of a file in a known other format."""
    kind = next((kind for start, kind in _FORMATS.items() if content.startswith(start)), None)
    return None if kind is None else InputError(f"{path} is not UTF-8 text but {kind}")


def _not_utf8(content: bytes, at: int, path: str) -> InputError:
    """Names line and column of the first byte that is not UTF-8."""
    lines = _LINE_END.split(content[:at].decode("latin-1"))
    header = [cell.strip(' "') for cell in _LINE_END.split(content.decode("utf-8-sig", "replace"))[0].split(",")]
    place = lines[-1].count(",")
    column = f", column {header[place]!r}" if len(lines) > 1 and place < len(header) else ""
    letter = content[at : at + 1].decode("cp1252", "replace")
    return InputError(
        f"{path}, line {len(lines)}{column}: byte 0x{content[at]:02x} is not UTF-8 (in Windows-1252 it is {letter!r}); "
        "save the file as CSV in UTF-8"
    )


# Lines.
def _cells(line: str, path: str, number: int, header: Sequence[str]) -> list[str]:
    """The cells of one line. A quoted cell ends on its own line: one that did not could swallow rows unseen."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    cells: list[str] = []
    at, more = 0, True
    while more:
        if line[at:].lstrip().startswith('"'):
            found = _QUOTED_CELL.match(line, at)
            if found is None:
                column = repr(header[len(cells)]) if len(cells) < len(header) else len(cells) + 1
                raise InputError(
                    f"{path}, line {number}: not a valid CSV line: the quoted cell in column {column} does not end "
                    "before the next comma or the end of the line; close its quote, and write a quote inside it twice"
                )
            cells.append(found[1].replace('""', '"').strip())
            at, more = found.end(), bool(found[2])
        else:
            cell, comma, _ = line[at:].partition(",")
            cells.append(cell.strip())
            at, more = at + len(cell) + 1, bool(comma)
    return cells


def _header(line: str, path: str, number: int, required: Sequence[str], where: str) -> list[str]:
    """The column names, or an InputError where some are missing, repeated or empty."""
    header = _cells(line, path, number, ())
    missing = [column for column in required if column not in header]
    here = f"{where}{path}, line {number}"
    data = sum(finite(cell) is not None or _DATE.match(cell) is not None for cell in header)
    if data == len(header) or (missing and 2 * data > len(header)):
        raise InputError(f"{here}: {line.strip()!r} looks like data; the first line must name the columns")
    if missing:
        raise InputError(_why_missing(line, header, path, here, missing) or _lacks(header, f"{where}{path}", missing))
    repeated = [column for place, column in enumerate(header) if column and column in header[:place]]
    if repeated:
        raise InputError(f"{here} names the column {repeated[0]!r} twice; each column needs its own name")
    if "" in header:
        raise InputError(f"{here}: column {header.index('') + 1} has no name in the header; name it or take it out")
    return header


def _lacks(header: list[str], here: str, missing: list[str]) -> str:
    close = nearest(missing[0], header)
    meant = f"; {close}" if len(missing) == 1 and close.startswith("did you mean") else ""
    return f"{here} lacks the column(s) {', '.join(missing)}; its header has {', '.join(header)}{meant}"


def _why_missing(line: str, header: list[str], path: str, here: str, missing: list[str]) -> str | None:
    """Why a header lacks columns, where its line shows the cause."""
    if line.lower().startswith("sep="):
        return f"{here}: {line.strip()!r} is for Excel alone; take it out, so that the file begins with its header"
    if line.startswith("#"):
        return f"{here}: {line.strip()[:40]!r} is a comment; take it out, so that the file begins with its header"
    for separator, name in _SEPARATORS.items():
        names = [cell.strip().strip('"') for cell in line.split(separator)]
        if len(names) > len(header) and (len(header) == 1 or missing[0] in names):
            cause = f"its cells seem to be separated by {name} where commas are expected"
            return f"{here}: {cause}; {path} lacks the column(s) {', '.join(missing)}; its header has {line.strip()}"
    return None


def _why_uneven(cells: list[str], header: list[str]) -> str:
    """What is wrong with a row that is longer or shorter than the header; begins with the column if that is known."""
    found = f"{len(cells)} cell{'s' if len(cells) != 1 else ''} where the header has {len(header)}"
    if len(cells) < len(header):
        for separator, name in _SEPARATORS.items():
            if len(",".join(cells).split(separator)) == len(header):
                return f": {found}; they seem to be separated by {name} where commas are expected"
        return f": {found}; the row ends before column {header[len(cells)]!r}"
    if not any(cells[len(header) :]):
        return f": {found}; take out the comma at the end of the line"
    pairs = [f"{left},{right}" for left, right in itertools.pairwise(cells)][: len(header)]
    for pattern, cause in ((_GROUPED, "thousands separator"), (_DECIMAL_COMMA, "decimal comma")):
        place = next((i for i, pair in enumerate(pairs) if pattern.fullmatch(pair)), None)
        if place is not None:
            hint = f"if {pairs[place]!r} is one number with a {cause}, write {_plain(pairs[place])}"
            return f": {found}; in column {header[place]!r}, {hint}"
    return f": {found}; put a cell that holds a comma in quotes"


# Numbers.
def _why_no_number(cell: str) -> str:
    if not cell:
        return "a number is missing"
    plain = _plain(cell)
    if plain is None:
        return f"{cell!r} is not a finite number; write digits with a decimal point, as in 0.5 or 1e-4"
    kind = "decimal comma" if _DECIMAL_COMMA.fullmatch(cell) and not _GROUPED.fullmatch(cell) else "thousands separator"
    return f"{cell!r} is not a finite number: it has a {kind}; write {plain}"


def _plain(cell: str) -> str | None:
    """How a number with separators should be written, None where it has none."""
    if _GROUPED.fullmatch(cell):
        whole = re.sub(r"[,'’_\s]", "", cell)
        either = cell.count(",") == 1 and "." not in cell
        return f"{whole}, or {cell.replace(',', '.')} if the comma is a decimal one" if either else whole
    if _GROUPED_WITH_DECIMAL_COMMA.fullmatch(cell):
        return re.sub(r"[.'’_\s]", "", cell).replace(",", ".")
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else None
