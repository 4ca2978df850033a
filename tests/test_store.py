"""A cell's file holds everything, and is there whole or not at all."""

import csv
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml

from envs.errors import InputError
from experiments.results import cell_file, leases, overwrite, study_folder, study_record, tables
from experiments.results.cell_file import CellResult
from experiments.results.leases import Leases
from tests.studies import tree
from tests.synthetic import make_cell

COLUMNS = (
    *("cell", "policy", "deployment", "env", "demand", "forecaster", "num_models", "horizon", "budget", "target"),
    *("seed", "benchmark", "reward", "reward_expected", "regret", "violation", "violation_worst", "spent"),
    *("overspend", "declined", "served", "demand_total"),
)
RECORD = {"config": {"horizon": 10, "env": {"target": 0.5}, "out": None}, "versions": {"jax": "1"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cells").mkdir()
    return tmp_path


@pytest.fixture
def result() -> CellResult:
    extras = {"counts": np.arange(6).reshape(2, 3), "flag": np.array(True), "none": np.zeros((0, 2), np.float32)}
    return replace(make_cell(models=("größer/small", "large")), extras=extras)


def assert_equal(left: CellResult, right: CellResult) -> None:
    for entry in fields(CellResult):
        one, other = getattr(left, entry.name), getattr(right, entry.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=entry.name)
            assert one.dtype == other.dtype and one.shape == other.shape, entry.name
        elif entry.name == "extras":
            assert one.keys() == other.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
                assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
        else:
            assert one == other and type(one) is type(other), entry.name


def written(folder: Path, result: CellResult) -> Path:
    cell_file.write_cell(folder, result)
    return cell_file.cell_path(folder, result.info.cell)


def test_every_field_comes_back(folder: Path, result: CellResult) -> None:
    assert_equal(cell_file.read_cell(written(folder, result)), result)


def test_a_cell_without_budget_target_and_extras_comes_back(folder: Path) -> None:
    bare = make_cell(budget_per_task=None, target=None)
    again = cell_file.read_cell(written(folder, bare))
    assert_equal(again, bare)
    assert again.info.budget is None


def test_an_unknown_metric_names_those_there_are(result: CellResult) -> None:
    with pytest.raises(KeyError, match="reward_expected"):
        result.final("rewrad")


def test_a_crash_before_the_last_step_leaves_nothing(
    folder: Path, result: CellResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        cell_file.write_cell(folder, result)
    assert list(tree(folder)) == [str(folder / "cells")]


def test_a_crash_leaves_an_earlier_file_as_it_was(
    folder: Path, result: CellResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(folder, result)
    before = tree(folder)

    def crash(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="the disk is gone"):
        cell_file.write_cell(folder, replace(result, seeds=result.seeds + 1))
    assert tree(folder) == before
    assert_equal(cell_file.read_cell(path), result)


@pytest.mark.parametrize("damage", ["short", "empty", "text", "changed", "foreign"])
def test_a_damaged_file_is_an_error(folder: Path, result: CellResult, damage: str) -> None:
    path = written(folder, result)
    whole = path.read_bytes()
    middle = len(whole) // 2
    contents = {"short": whole[:middle], "empty": b"", "text": b"hello"}
    flipped = bytes(255 - byte for byte in whole[middle : middle + 9])
    contents["changed"] = whole[:middle] + flipped + whole[middle + 9 :]
    if damage == "foreign":
        with path.open("wb") as file:
            np.savez(file, something=np.arange(3))
    else:
        path.write_bytes(contents[damage])
    with pytest.raises((OSError, ValueError)):
        cell_file.read_cell(path)


def test_no_flipped_bit_goes_unseen(folder: Path, result: CellResult) -> None:
    """Nor a file of another length. Everywhere: in the archive, its headers, the checksum."""
    path = written(folder, result)
    whole = path.read_bytes()
    generator = random.Random(1)
    ends = range(8 * (len(whole) - 104), 8 * len(whole), 3)
    for bit in {*(generator.randrange(8 * len(whole)) for _ in range(300)), *ends}:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="is damaged"):
            cell_file.read_cell(path)
    for length in {*(generator.randrange(len(whole)) for _ in range(100)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is damaged"):
            cell_file.read_cell(path)
    for more in (whole + b"\0", whole + whole):
        path.write_bytes(more)
        with pytest.raises(ValueError, match="is damaged"):
            cell_file.read_cell(path)


def test_numpy_alone_reads_a_cell(folder: Path, result: CellResult) -> None:
    with np.load(written(folder, result), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["curves"], result.curves)


def test_every_writing_has_its_own_stamp(folder: Path, result: CellResult) -> None:
    cell = result.info.cell
    assert cell_file.version_id(folder, cell) is None
    path = written(folder, result)
    first = cell_file.version_id(folder, cell)
    assert first and first == cell_file.version_id(folder, cell)
    written(folder, result)
    assert cell_file.version_id(folder, cell) not in (None, first)
    path.write_bytes(b"short")
    assert cell_file.version_id(folder, cell) == ""


def test_damaged_files_are_set_aside_side_by_side(folder: Path, result: CellResult) -> None:
    cell = result.info.cell
    for number in (1, 2):
        written(folder, result).write_text(str(number))
        aside = cell_file.set_aside(folder, cell)
        assert aside == folder / "cells/damaged" / f"{cell}-{number}.npz"
        assert aside.read_text() == str(number)
    assert cell_file.set_aside(folder, cell) is None


def test_a_redo_goes_on_until_everything_is_replaced(folder: Path) -> None:
    results = {cell.info.cell: cell for cell in (make_cell("uniform"), make_cell("greedy"))}
    (there, absent) = results
    written(folder, results[there])
    old = cell_file.version_id(folder, there)
    with Leases(folder) as mine:
        for _ in range(2):  # the second time it is gone on with
            overwrite.begin_overwrite(folder, [there, absent], mine)
            assert overwrite.pending(folder) == {there: old, absent: None}
            overwrite.end_overwrite(folder)
            written(folder, results[there])
    overwrite.end_overwrite(folder)
    assert (folder / "overwrite.json").exists()
    written(folder, results[absent])
    overwrite.end_overwrite(folder)
    assert overwrite.pending(folder) == {}
    assert {path.name for path in folder.iterdir()} == {"cells"}


def test_a_redo_s_note_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "overwrite.json").write_text("[1")
    with pytest.raises(InputError, match=r"overwrite\.json"):
        overwrite.pending(folder)


def test_only_the_dead_s_unfinished_files_are_removed(folder: Path) -> None:
    mine = leases.process()
    machine, number, started = mine.split("-")
    dead = f"{machine}-{number}-{int(started) + 1}"
    for name in (f".a.npz.{mine}.x1", f".a.npz.{dead}.x2", ".hidden", f"a.{dead}.x3"):
        (folder / "cells" / name).touch()
        (folder / name).touch()
    before = set(tree(folder))
    study_record.tidy(folder)
    gone = f".a.npz.{dead}.x2"
    assert set(tree(folder)) == before - {str(folder / gone), str(folder / "cells" / gone)}


def test_results_have_one_row_a_run_and_the_columns_of_the_contract(folder: Path) -> None:
    cells = [make_cell(runs=3), make_cell("greedy", runs=3, budget_per_task=None)]
    tables.write_results(folder, cells)
    table = pyarrow.parquet.read_table(folder / "results.parquet")
    assert set(COLUMNS) <= set(table.column_names)
    assert table.num_rows == 6
    assert table["seed"].to_pylist() == [0, 1, 2] * 2
    assert table["budget"].to_pylist() == [cells[0].info.budget] * 3 + [None] * 3
    for column, metric in (("demand_total", "demand"), ("spent", "spent_money"), ("regret", "regret")):
        np.testing.assert_array_equal(table[column].to_numpy()[:3], cells[0].final(metric))


def test_the_csv_file_says_the_same(folder: Path) -> None:
    tables.write_results(folder, [make_cell(runs=2), make_cell("greedy", runs=2)])
    expected = pyarrow.parquet.read_table(folder / "results.parquet").to_pylist()
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [list(row) for row in found] == [list(row) for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["cell"] == other["cell"]
        assert float(one["regret"]) == other["regret"]


def test_a_folder_is_made_with_the_configuration_and_the_versions(tmp_path: Path) -> None:
    study_record.open_folder(tmp_path / "a" / "b", RECORD)
    assert yaml.safe_load((tmp_path / "a/b/config.yaml").read_text(encoding="utf-8")) == RECORD
    assert (tmp_path / "a/b/cells").is_dir()


def test_the_same_study_may_come_back_to_its_folder(tmp_path: Path) -> None:
    study_record.open_folder(tmp_path / "a", RECORD)
    before = tree(tmp_path)
    elsewhere = {**RECORD["config"], "out": "a", "chunk_rows": 7}
    study_record.open_folder(tmp_path / "a", {"config": elsewhere, "versions": {"jax": "2"}})
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"horizon": 11, "env": {"target": 0.5}}, "horizon is 10 there and 11 here"),
        ({"horizon": 10, "env": {"target": None}}, r"env.target is 0.5 there and None here"),
        ({"horizon": 10}, "env"),
    ],
)
def test_another_study_may_not(tmp_path: Path, config: dict, words: str) -> None:
    study_record.open_folder(tmp_path / "a", RECORD)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=words):
        study_record.open_folder(tmp_path / "a", {"config": config, "versions": {}})
    assert tree(tmp_path) == before


def test_every_difference_is_told(tmp_path: Path) -> None:
    study_record.open_folder(tmp_path / "a", RECORD)
    with pytest.raises(InputError) as refused:
        study_record.open_folder(tmp_path / "a", {"config": {"horizon": 11, "seeds": 3, "force": True}, "versions": {}})
    text = str(refused.value)
    for words in ("env.target is 0.5 there", "horizon is 10 there and 11 here", "seeds is None there and 3 here"):
        assert words in text
    assert "force" not in text and "extend=true" in text and "\n" not in text


def test_a_folder_keeps_every_study_that_is_added(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    records = [{"config": {"horizon": n}, "versions": {"jax": str(n)}, "cells": f"shared of{n}"} for n in (1, 2, 3)]
    study_record.open_folder(folder, records[0], extend=True)
    for record in records[1:]:
        with pytest.raises(InputError, match="horizon"):
            study_record.open_folder(folder, record)
        study_record.open_folder(folder, record, extend=True)
    known = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert known == {**records[2], "earlier": records[:2]}
    assert study_folder.recorded_cells(folder) == ["shared", "of1", "of2", "of3"]
    before = tree(folder)
    for record in records:  # each may come back, with and without
        study_record.open_folder(folder, record)
        study_record.open_folder(folder, record, extend=True)
    assert tree(folder) == before
    study_record.open_folder(folder, {**records[1], "cells": "other"})  # a rule's file was changed
    assert study_folder.recorded_cells(folder) == ["shared", "of1", "other", "of3"]


def test_processes_that_open_a_folder_together_lose_no_study(tmp_path: Path) -> None:
    records = [{"config": {"horizon": n}, "versions": {}, "cells": f"of{n}"} for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda record: study_record.open_folder(tmp_path / "a", record, extend=True), records))
    assert sorted(study_folder.recorded_cells(tmp_path / "a")) == [f"of{n}" for n in range(6)]


def test_a_start_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a/leases").mkdir(parents=True)
    (tmp_path / f"a/.config.yaml.{leases.process()}.x1").touch()
    study_record.open_folder(tmp_path / "a", RECORD)
    assert (tmp_path / "a/config.yaml").is_file()


@pytest.mark.parametrize("content", [b"}{", b"hello", b"\xff\xfe", b"", b"config: 3"])
def test_a_folder_whose_record_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.yaml"):
        study_record.open_folder(tmp_path, RECORD)
    assert tree(tmp_path) == {str(tmp_path / "config.yaml"): content}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="out"):
        study_record.open_folder(tmp_path / "a", RECORD)


def test_the_summary_is_strict_json(folder: Path) -> None:
    tables.write_summary(folder, {"größe": [1, None]})
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == {"größe": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        tables.write_summary(folder, {"regret": float("nan")})
