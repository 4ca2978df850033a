"""One reader for catalogues and traces: layouts that people have are read right, everything else is refused by name."""

import csv
import doctest
import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from envs import catalogue, csv_table
from envs.demand.arrivals import build
from envs.demand.trace import read_trace
from envs.errors import InputError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
COUNTS = [4.0, 0.0, 10.5, 1010.0]
TRACE = "minute,requests\n0,4\n1,0\n2,10.5\n3,1010\n"
MODELS = (
    "model,tier,quality,cost_usd,cost_cv,latency_s,latency_cv,released\n"
    "small,edge,0.5,1e-4,0.5,0.8,0.3,2023-09-27\n"
    "large,cloud,0.9,2e-3,0,4,0,\n"
)


def quoted(text: str) -> str:
    """Every cell in quotes."""
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()) + "\n"


LAYOUTS = {
    "plain": lambda text: text.encode(),
    "byte-order mark": lambda text: text.encode("utf-8-sig"),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "windows with a mark": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "old mac": lambda text: text.replace("\n", "\r").encode(),
    "doubled line ends": lambda text: text.replace("\n", "\r\r\n").encode(),
    "no last end": lambda text: text.rstrip("\n").encode(),
    "many last ends": lambda text: (text + "\n \n\n").encode(),
    "empty cells at the end": lambda text: (text + "," * text.splitlines()[0].count(",") + "\n").encode(),
    "blank first line": lambda text: ("\n" + text).encode(),
    "quoted": lambda text: quoted(text).encode(),
    "quoted header": lambda text: (quoted(text.splitlines()[0]) + text.split("\n", 1)[1]).encode(),
    "spaces": lambda text: text.replace(",", " , ").replace("\n", " \n").encode(),
    "quotes and spaces": lambda text: quoted(text).replace(",", " , ").encode(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_people_have_are_read_right(layout: str, tmp_path: Path) -> None:
    trace, models = tmp_path / "trace.csv", tmp_path / "models.csv"
    trace.write_bytes(LAYOUTS[layout](TRACE))
    models.write_bytes(LAYOUTS[layout](MODELS))
    assert read_trace(trace, "requests").tolist() == COUNTS
    found = catalogue.read(models)
    assert found.names == ("small", "large")
    assert found.cost_usd.tolist() == [1e-4, 2e-3]


def test_text_cells_keep_their_commas_and_quotes() -> None:
    table = csv_table.parse(b'name,n\n"a, ""b""",1\nthe "c",2\n"",3\n', "t.csv", ["n"], row="thing")
    assert table.columns["name"] == ['a, "b"', 'the "c"', ""]


@pytest.mark.parametrize("text", ["0", "-0", "+5", "5.", ".5", "0.50", "1e3", "1.5E-3", "007", "123456789012345678901"])
def test_what_is_a_number(text: str) -> None:
    assert csv_table.finite(text) == float(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "nan", "NaN", "inf", "-Infinity", "1_000", "0x1F", "1e", "e5", ".", "1e999", "1e-999", "1 2", "--1"),
        *("1,5", "1.5.2", "1d5", "½", "٣", "5%", "$5", "5k", "true", "None", "#N/A", "1\u200b", "'5", "1/2"),
    ],
)
def test_what_is_no_number(text: str) -> None:
    assert csv_table.finite(text) is None


CELLS = [  # a cell of the column, quoted; what the sentence says of it
    ("", "a number is missing"),
    ("many", "'many' is not a finite number"),
    ("nan", "'nan' is not a finite number"),
    ("inf", "'inf' is not a finite number"),
    ("-inf", "'-inf' is not a finite number"),
    ("0x1F", "'0x1F' is not a finite number"),
    ("1e999", "'1e999' is not a finite number"),
    ("1_000", "'1_000' is not a finite number: it has a thousands separator; write 1000"),
    ("1,5", "'1,5' is not a finite number: it has a decimal comma; write 1.5"),
    ("0,25", "'0,25' is not a finite number: it has a decimal comma; write 0.25"),
    ("1,010", "it has a thousands separator; write 1010, or 1.010 if the comma is a decimal one"),
    ("1,010,500", "it has a thousands separator; write 1010500"),
    ("1,010.5", "it has a thousands separator; write 1010.5"),
    ("1.010,5", "it has a thousands separator; write 1010.5"),
    ("1.010.500", "it has a thousands separator; write 1010500"),
    ("1 010", "it has a thousands separator; write 1010"),
    ("1\u202f010,5", "it has a thousands separator; write 1010.5"),
    ("1'010", "it has a thousands separator; write 1010"),
    ("-1", "-1 must be"),
    ("-1e-9", "-1e-9 must be"),
]


@pytest.mark.parametrize(("cell", "message"), CELLS)
def test_a_bad_cell_is_named_by_file_line_column_and_cause(cell: str, message: str, tmp_path: Path) -> None:
    trace, models = tmp_path / "trace.csv", tmp_path / "models.csv"
    trace.write_text(TRACE.replace("2,10.5", f'2,"{cell}"'))
    models.write_text(MODELS.replace("0.9", f'"{cell}"'))
    for read, where in (
        (lambda: read_trace(trace, "requests"), f"{trace}, line 4, column 'requests': "),
        (lambda: catalogue.read(models), f"{models}, line 3, column 'quality': "),
    ):
        refused(read, where, message)


def refused(read, *parts: str) -> None:
    """Refused in one sentence that holds these parts."""
    with pytest.raises(InputError) as caught:
        read()
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence, sentence


UNEVEN = [  # the third row of the trace
    ("2,1,010", "line 4: 3 cells where the header has 2", "'1,010'", "thousands separator", "write 1010"),
    ("2,1,010,500", "line 4: 4 cells where the header has 2", "thousands separator"),
    ("2,10,5", "line 4: 3 cells where the header has 2", "decimal comma"),
    ("2", "line 4: 1 cell where the header has 2; the row ends before column 'requests'"),
    ("10.5", "line 4: 1 cell where the header has 2"),
    ("2;10.5", "line 4: 1 cell where the header has 2; they seem to be separated by semicolons"),
    ("2\t10.5", "line 4: 1 cell where", "tabs"),
    ("2|10.5", "line 4: 1 cell where", "pipes"),
    ("2,10.5,", "line 4: 3 cells where the header has 2; take out the comma at the end of the line"),
    ("2,10.5,late,or,not", "line 4: 5 cells where the header has 2"),
    (",", "line 4, column 'requests': a number is missing"),
    ("2,", "line 4, column 'requests': a number is missing"),
    ('2,"10.5', "line 4: not a valid CSV line", "column 'requests'", "close its quote"),
    ('"2,10.5', "line 4: not a valid CSV line", "column 'minute'", "close its quote"),
    ('2,"10.5"x', "line 4: not a valid CSV line", "column 'requests'"),
    ('2,10.5"', "line 4, column 'requests': '10.5\"' is not a finite number"),
]


@pytest.mark.parametrize(("line", "parts"), [(line, parts) for line, *parts in UNEVEN])
def test_a_shifted_row_is_never_replayed(line: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE.replace("2,10.5", line))
    refused(lambda: read_trace(path, "requests"), f"{path}, ", *parts)


def test_one_stray_quote_swallows_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [f"{hour},{100 + hour}" for hour in range(24)]
    rows[3], rows[20] = '3,"103', '20,"120'
    path.write_text("hour,requests\n" + "\n".join(rows) + "\n")
    refused(lambda: read_trace(path, "requests"), "line 5: not a valid CSV line")
    rows[3], rows[20] = '"3,103', '20",120'  # closed again, seventeen rows later
    path.write_text("hour,requests\n" + "\n".join(rows) + "\n")
    refused(lambda: read_trace(path, "requests"), "line 5: not a valid CSV line")


HEADERS = [  # a whole trace file
    ("", "is empty"),
    ("\n \n", "is empty"),
    ("\ufeff", "is empty"),
    ("minute,requests\n", "has a header and no intervals"),
    ("minute,requests\n,\n", "has a header and no intervals"),
    ("minute;requests\n0;4\n", "line 1", "separated by semicolons", "lacks the column(s) requests"),
    ("minute;requests\n0;4,5\n", "line 1", "separated by semicolons"),
    ("minute\trequests\n0\t4\n", "line 1", "separated by tabs"),
    ("minute|requests\n0|4\n", "line 1", "separated by pipes"),
    ("minute requests\n0 4\n", "line 1", "separated by spaces"),
    ('"minute";"requests"\n0;4\n', "line 1"),
    ("0,4\n1,0\n", "line 1", "'0,4' looks like data; the first line must name the columns"),
    ("4\n0\n", "line 1", "'4' looks like data"),
    ("2023-11-16 18:15:46,374,44\n", "line 1", "looks like data"),
    ("minute,Requests\n0,4\n", "lacks the column(s) requests", "did you mean 'Requests'?"),
    ("minute,request\n0,4\n", "lacks the column(s) requests", "did you mean 'request'?"),
    ("minute,arrivals\n0,4\n", "lacks the column(s) requests; its header has minute, arrivals"),
    ("requests,requests\n0,4\n", "line 1 names the column 'requests' twice"),
    ("minute,minute,requests\n0,0,4\n", "line 1 names the column 'minute' twice"),
    ("minute,,requests\n0,0,4\n", "line 1: column 2 has no name in the header"),
    ("minute,requests,\n0,4,\n", "line 1: column 3 has no name in the header"),
    ("sep=;\nminute;requests\n0;4\n", "line 1: 'sep=;' is for Excel alone"),
    ("# counted by hand\nminute,requests\n0,4\n", "line 1: '# counted by hand' is a comment"),
    ("minute,requests\n0,0\n1,0.0\n", "column 'requests'", "is zero in every row"),
]


@pytest.mark.parametrize(("text", "parts"), [(text, parts) for text, *parts in HEADERS])
def test_a_bad_header_is_named_with_its_cause(text: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    refused(lambda: read_trace(path, "requests"), str(path), *parts)


def archive(write) -> bytes:
    """A ZIP archive in memory."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        write(file)
    return memory.getvalue()


NOT_CSV = [
    (TRACE.encode("utf-16"), "UTF-16"),
    (b"\xfe\xff" + TRACE.encode("utf-16-be"), "UTF-16"),
    (TRACE.encode("utf-16-le"), "UTF-16"),
    (TRACE.encode("utf-32"), "UTF-32"),
    (TRACE.replace("10.5", "10.5é").encode("latin-1"), "line 4, column 'requests': byte 0xe9 is not UTF-8"),
    (TRACE.replace("minute", "zürich").encode("cp1252"), "line 1: byte 0xfc is not UTF-8"),
    (TRACE.replace("10.5", "10\0.5").encode(), "line 4: a NUL byte"),
    (gzip.compress(TRACE.encode(), mtime=0), "gzip"),
    (archive(lambda file: file.writestr("xl/workbook.xml", "<x/>")), "Excel workbook"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(64), "Excel workbook"),
    (b"PAR1\x15\x04\x15\x00" + bytes(64) + b"PAR1", "Parquet"),
    (bytes(100), "NUL byte"),
    (os.urandom(0) + b"\xff\xff\xff", "byte 0xff is not UTF-8"),
]


@pytest.mark.parametrize(("content", "part"), NOT_CSV)
def test_what_is_no_utf8_text_is_named(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    for read in (lambda: read_trace(path, "requests"), lambda: catalogue.read(path)):
        refused(read, str(path), part)


def test_a_column_may_be_called_like_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("PK,BZh,requests\n1,2,3\n")
    assert read_trace(path, "requests").tolist() == [3.0]


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "nul"])
def test_what_cannot_be_opened_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a\0b.csv" if kind == "nul" else "trace.csv")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # reading it would wait for ever
    wanted = {"missing": "No such file", "folder": "it is a folder", "pipe": "no regular file", "nul": "null"}[kind]
    refused(lambda: read_trace(path, "requests"), "demand.path", repr(str(path)), wanted)
    refused(lambda: catalogue.read(path), repr(str(path)))


def test_a_misspelt_optional_column_is_not_taken_for_an_extra(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text(MODELS.replace("released\n", "released,retird\n").replace("27\n", "27,\n").replace("0,\n", "0,,\n"))
    refused(lambda: catalogue.read(path), "column 'retird' is not known; did you mean 'retired'?")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.csv")) if DATA.is_dir() else [], ids=lambda path: path.name)
def test_real_files_are_read_like_pythons_own_reader_reads_them(path: Path) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    table = csv_table.parse(path.read_bytes(), path.name, header[:1], row="row", skip_empty=False)
    assert list(table.columns) == header
    assert [list(cells) for cells in zip(*table.columns.values(), strict=True)] == rows
    assert table.lines == list(range(2, len(rows) + 2))
    for name, cells in table.columns.items():
        numbers = [csv_table.finite(cell) for cell in cells]
        if None not in numbers:
            np.testing.assert_array_equal(table.numbers(name, lambda _: True, ""), np.array(cells, np.float64))


def test_examples() -> None:
    assert doctest.testmod(csv_table).failed == 0


# Replay.
def replay(tmp_path: Path, rows: str, **changes) -> object:
    path = tmp_path / "trace.csv"
    path.write_text("requests\n" + rows)
    return build("trace", {"path": str(path), "column": "requests", "mean": None, "counts": "none", **changes})


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_series_of_any_size_keeps_its_shape(scale: float, tmp_path: Path) -> None:
    demand = replay(tmp_path, "".join(f"{count * scale!r}\n" for count in (1, 0, 3)), mean=2.0)
    assert [float(demand.profile(t, 3)) for t in range(3)] == pytest.approx([1.5, 0.0, 4.5])


def test_one_row_is_a_constant(tmp_path: Path) -> None:
    demand = replay(tmp_path, "7\n")
    assert [float(demand.profile(t, 5)) for t in range(5)] == [7.0] * 5


def test_a_mean_that_no_ledger_can_hold_is_refused(tmp_path: Path) -> None:
    refused(lambda: replay(tmp_path, "1e200\n"), "demand.mean", "1e+200", "trace.csv")
    refused(lambda: replay(tmp_path, "1e-200\n"), "demand.mean", "1e-200", "trace.csv")
