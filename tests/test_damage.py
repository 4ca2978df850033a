"""Whatever a study's files hold, every command works or refuses in one sentence, and no result is lost."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from experiments.cli import commands
from experiments.jobs import runner
from experiments.report import summary
from experiments.report.figures import gallery
from experiments.results import cell_file, disk, layout, study_folder
from tests import studies
from tests.processes import usual_signals
from tests.studies import CommandLine
from tests.test_faults import mount

STUDY = ("sweep.horizon=[10,20]", "out=out")
INFORMING = ("plan.json", "events.jsonl", "summary.json", "figures/index.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study, made once."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        with studies.command_line(folder, patch, NoCapture()) as call:  # type: ignore[arg-type]
            call.done(*STUDY)
    out = folder / "out"
    (out / "figures").mkdir()
    (out / "figures" / gallery.INDEX).write_text("[]")
    (out / "report.html").write_text("")
    return out


class NoCapture:
    """Of a fixture that is not there for modules."""

    def readouterr(self) -> "NoCapture":
        self.out = self.err = ""
        return self


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


@pytest.fixture
def out(finished: Path, call: CommandLine) -> Path:
    return shutil.copytree(finished, call.folder / "out")


def command(call: CommandLine, name: str, *more: str) -> tuple[int, str, str]:
    """One of the four commands on the folder ``out``: its code, and what it said."""
    if name == "run":
        ran = call(*STUDY)
        return ran.code, ran.out, ran.err
    call.capture.readouterr()
    options = ["--mode", "disabled"] if name == "sync" else []
    call.monkeypatch.setenv("WANDB_MODE", "offline" if "offline" in more else "disabled")
    call.monkeypatch.setattr(sys, "argv", [f"llm-bandits-{name}", "out", *options, *more])
    with pytest.raises(SystemExit) as left:
        commands.COMMANDS[name]()
    said = call.capture.readouterr()
    return int(str(left.value.code)), said.out, said.err


def flipped(content: bytes, place: float) -> bytes:
    bit = int(place * 8 * len(content))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    **{f"flipped {place}": lambda content, place=place: flipped(content, place) for place in (0.0, 0.3, 0.62, 0.999)},
    "garbage": lambda content: bytes(range(256)) * 3,
    "number": lambda content: b"17",
    "list": lambda content: b'[[], {"event": 3}, {"cell": []}, null]',
    "words": lambda content: b'{"config": {"name": 1}, "cells": "a", "event": "study", "process": 3}',
    "not finite": lambda content: (
        b'{"event": "progress", "process": "h:1", "uptime_s": NaN, "of": 1e999, "decisions": []}'
    ),
    "deep": lambda content: b"[" * 100_000,
    "surrogate": lambda content: (
        b'{"event": "failed", "cells": ["\\ud800"], "error": "\\ud800", "policy": "\\udfff"}\n'
    ),
    "folder": lambda content: None,
    "gone": lambda content: None,
}


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes(DAMAGES[how](content) or b"")


def assert_calm(code: int, err: str, *, at_most: int = 2) -> None:
    """It worked, or refused in one sentence; warnings are lines of their own."""
    assert code in (0, 2)
    lines = err.splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == lines[len(lines) - (code == 2) :], err
    assert len(lines) <= at_most + (code == 2), err
    assert "Traceback" not in err


@pytest.mark.parametrize("how", DAMAGES)
def test_files_that_only_inform_stop_no_command(call: CommandLine, out: Path, how: str) -> None:
    before = studies.tree(out)
    for name in INFORMING:
        damage(out / name, how)
    for each in ("status", "report", "sync", "run", "status"):
        code, _, err = command(call, each)
        assert_calm(code, err, at_most=3)
        assert code == 0
    assert studies.tree(out / "cells") == {path: held for path, held in before.items() if "/cells/" in path}
    after = studies.tree(out)
    same = {name for name in before if Path(name).name not in ("events.jsonl", "index.json")}
    if how == "folder":  # what stands in the way is left there
        same -= {str(out / name) for name in INFORMING}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


@pytest.mark.parametrize("how", sorted(DAMAGES.keys() - {"words"}))  # which are a record, from before checksums
def test_a_damaged_record_is_made_again_from_the_cells(call: CommandLine, out: Path, how: str) -> None:
    record, before = (out / "config.yaml").read_bytes(), studies.tree(out / "cells")
    damage(out / "config.yaml", how)
    code, said, err = command(call, "status")
    assert (code, err) == (0, "") and "2 of 2 cells done" in said
    assert "is taken from the stored cells" in " ".join(said.split())
    each = "run" if how in ("cut", "gone", "flipped 0.3") else "report"
    code, _, err = command(call, each)
    assert code == 0
    assert err.count("\n") == err.count("it was written again") == 1
    assert (out / "config.yaml").read_bytes() == record
    assert len(list(out.glob("config-damaged-1.yaml"))) == (how != "gone")
    assert command(call, "run")[::2] == (0, "")
    assert studies.tree(out / "cells") == before


def test_a_record_edited_by_hand_is_set_aside(call: CommandLine, out: Path) -> None:
    path = out / "config.yaml"
    edited = path.read_text().replace("seeds: 2", "seeds: 3")
    path.write_text(edited)
    code, _, err = command(call, "run")
    assert code == 0 and "config-damaged-1.yaml" in err and err.count("\n") == 1
    assert (out / "config-damaged-1.yaml").read_text() == edited
    assert "seeds: 2" in path.read_text()


def test_a_record_from_before_checksums_is_believed(call: CommandLine, out: Path) -> None:
    path = out / "config.yaml"
    path.write_text(path.read_text().partition("\n")[2])
    for each in ("status", "report", "run"):
        assert command(call, each)[::2] == (0, "")


def test_all_studies_of_a_folder_come_back(call: CommandLine, out: Path) -> None:
    call.done("sweep.horizon=[20,30]", "out=out", "extend=true")
    record = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    (out / "config.yaml").write_bytes(b"")
    assert command(call, "report")[0] == 0
    again = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert [study["config"] for study in (again["earlier"][0], again)] == [
        study["config"] for study in (record["earlier"][0], record)
    ]
    assert set(study_folder.current(again)) == set(study_folder.current(record))
    assert call.done("sweep.horizon=[20,30]", "out=out").decisions == 0
    (out / "config.yaml").unlink()
    refused = call("sweep.horizon=[20,40]", "out=out")
    assert refused.code == 2
    studies.one_sentence(refused.err, "another study's results")


def test_cells_that_do_not_tell_their_study_are_known_by_their_ids(call: CommandLine, out: Path) -> None:
    for path in (out / "cells").iterdir():
        cell = cell_file.read_cell(path)
        cell_file.write_cell(out, replace(cell, study=b""))
    (out / "config.yaml").write_bytes(b"")
    code, _, err = command(call, "report")
    assert code == 2
    studies.one_sentence(err, "config.yaml", "no stored cell")
    assert call("sweep.horizon=[10,30]", "out=out", "seeds=3").code == 2
    code, _, err = command(call, "run")
    assert code == 0 and "it was written again" in err
    assert command(call, "report")[::2] == (0, "")


@pytest.mark.parametrize("how", ["empty", "cut", "flipped 0.3", "garbage", "folder", "gone"])
def test_a_damaged_cell_costs_itself(call: CommandLine, out: Path, how: str) -> None:
    expected = (out / "results.parquet").read_bytes()
    path = sorted((out / "cells").iterdir())[0]
    damage(path, how)
    for each in ("report", "sync"):
        code, _, err = command(call, each)
        assert code == 0 and err.count("\n") == err.count(f"{path.stem}.npz is damaged") == (how != "gone")
    code, said, err = command(call, "run")
    assert (code, err) == (0, "") and "2 cells, 1 of them done before" in said
    assert (out / "results.parquet").read_bytes() == expected
    assert len(list((out / "cells").glob("damaged/*"))) == (how != "gone")


def test_a_redo_that_cannot_be_read_is_refused_and_stops_no_report(call: CommandLine, out: Path) -> None:
    cell = sorted(layout.stored(out))[0]
    disk.write_atomically(out / "overwrite.json", layout.overwrite_text({cell: cell_file.version_id(out, cell)}))
    whole = (out / "overwrite.json").read_bytes()
    assert study_folder.fresh(out) == layout.stored(out) - {cell}
    for how in ("empty", "cut", "flipped 0.3", "words", "folder"):
        (out / "overwrite.json").write_bytes(whole)
        damage(out / "overwrite.json", how)
        for each in ("status", "report"):
            code, said, err = command(call, each)
            assert code == 0 and "overwrite.json is damaged" in " ".join((said + err).split())
        code, _, err = command(call, "run")
        studies.one_sentence(err, "overwrite.json")
        assert code == 2
        shutil.rmtree(out / "overwrite.json") if how == "folder" else (out / "overwrite.json").unlink()


# Folders


def never(*_: object) -> None:
    pytest.fail("simulated for nothing")


def test_cells_may_be_removed_with_their_folder(call: CommandLine, out: Path) -> None:
    expected = (out / "results.parquet").read_bytes()
    shutil.rmtree(out / "cells")
    assert call.done(*STUDY).decisions == 60
    assert (out / "results.parquet").read_bytes() == expected


@pytest.mark.parametrize("name", ["cells", "leases", "checkpoints", "figures", "jobs"])
def test_a_file_in_place_of_a_folder_is_refused_before_simulating(call: CommandLine, out: Path, name: str) -> None:
    shutil.rmtree(out / "cells")
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).write_text("mine")
    call.monkeypatch.setattr(runner.batch, "compile_program", never)
    ran = call(*STUDY)
    assert ran.code == 2
    studies.one_sentence(ran.err, name, "no folder")


@pytest.mark.parametrize("name", ["results.parquet", "report.html", "tables.tex"])
def test_a_folder_in_place_of_a_result_is_refused_before_simulating(call: CommandLine, out: Path, name: str) -> None:
    (out / name).unlink(missing_ok=True)
    (out / name).mkdir()
    shutil.rmtree(out / "cells")
    call.monkeypatch.setattr(runner.batch, "compile_program", never)
    ran = call(*STUDY)
    assert ran.code == 2
    studies.one_sentence(ran.err, name, "is a folder")


def test_out_may_be_no_file(call: CommandLine) -> None:
    (call.folder / "file").touch()
    for path in ("file", "file/below"):
        ran = call(f"out={path}")
        assert ran.code == 2
        studies.one_sentence(ran.err, "out")


@pytest.mark.parametrize("lost", ["cells", "."])
def test_folders_that_vanish_are_made_again(call: CommandLine, finished: Path, lost: str) -> None:
    write, vanished = cell_file.write_cell, []

    def vanishing(folder: Path, result: cell_file.CellResult) -> None:
        if not vanished:
            vanished.append(result.info.cell)
            shutil.rmtree(folder / lost)
        write(folder, result)

    with call.monkeypatch.context() as patched:
        patched.setattr(cell_file, "write_cell", vanishing)
        ran = call(*STUDY, "out=new")
    assert ran.code == 0
    assert ran.err.count("\n") == ran.err.count("config.yaml is missing; ") == (lost == ".")
    assert (call.folder / "new/results.parquet").read_bytes() == (finished / "results.parquet").read_bytes()
    assert call.done(*STUDY, "out=new").decisions == 0
    assert layout.read_plan(call.folder / "new").keys() == layout.stored(call.folder / "new")


@pytest.fixture
def mounted(call: CommandLine) -> Iterator[Path]:
    folder = call.folder / "disk"
    folder.mkdir()
    mount(folder, "size=4m")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_finished_folder_may_be_read_only(call: CommandLine, finished: Path, mounted: Path) -> None:
    shutil.copytree(finished, mounted / "out")
    (call.folder / "out").symlink_to(mounted / "out")
    assert command(call, "report")[0] == 0
    mount(mounted, "remount,ro")
    before = studies.tree(mounted)
    for each in ("status", "report", "run"):
        code, _, err = command(call, each)
        assert code == 0
        assert_calm(code, err, at_most=int(each == "run"))  # nothing is logged, which is said
    assert_syncs_elsewhere(call)
    assert studies.tree(mounted) == before
    mount(mounted, "remount,rw")
    (mounted / "out/report.html").unlink()
    (mounted / "out/results.parquet").unlink()
    mount(mounted, "remount,ro")
    code, _, err = command(call, "report")
    assert code == 2
    studies.one_sentence(err, "cannot be written", "Read-only")
    mount(mounted, "remount,rw")
    lost = sorted((mounted / "out/cells").iterdir())[0]
    lost.unlink()
    mount(mounted, "remount,ro")
    call.monkeypatch.setattr(runner.batch, "compile_program", never)
    for more in ([], ["force=true"], ["sweep.horizon=[10,30]", "extend=true"]):
        ran = call(*STUDY, *more)
        assert ran.code == 2
        studies.one_sentence(ran.err, "cannot be written", "Read-only")
    ran = call("out=disk/new")
    assert ran.code == 2
    studies.one_sentence(ran.err, "cannot be written", "Read-only")
    assert {name: held for name, held in studies.tree(mounted).items() if name in before} | {str(lost): None}


def assert_syncs_elsewhere(call: CommandLine) -> None:
    """W&B's files cannot lie in the results folder, which is said with a way out; that way works."""
    code, out, err = command(call, "sync", "--mode", "offline")
    assert code == 1 and err.startswith("warning: cannot log to ") and err.count("\n") == 1
    assert "out/wandb: Read-only file system; llm-bandits-sync out --dir FOLDER writes the runs elsewhere" in out
    code, out, err = command(call, "sync", "--mode", "offline", "--dir", "elsewhere")
    assert code == 0 and err.startswith("warning: cannot log to ") and err.count("\n") == 1
    runs = len(list((call.folder / "elsewhere/wandb").glob("offline-run-*")))
    assert runs == 1 + len(layout.stored(call.folder / "out"))
    assert f"{runs} runs; to upload: wandb sync elsewhere/wandb/offline-run-*" in out


def test_a_disk_without_room_is_found_before_simulating(call: CommandLine, mounted: Path) -> None:
    call.monkeypatch.setattr(runner.batch, "compile_program", never)
    filled = mounted / "filled"
    with suppress(OSError), filled.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    ran = call("out=disk/out")
    assert ran.code == 2
    studies.one_sentence(ran.err, "cannot be written", "No space left")


def test_permissions_follow_the_umask(call: CommandLine) -> None:
    before = os.umask(0o027)
    try:
        call.done(*STUDY)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in call.folder.glob("out/**/*") if path.is_file()}
    assert modes == {0o640}
    assert stat.S_IMODE((call.folder / "out/cells").stat().st_mode) == 0o750


def test_what_cannot_be_read_is_refused_in_one_sentence(call: CommandLine, out: Path) -> None:
    read = Path.read_bytes

    def forbidden(path: Path) -> bytes:
        if path.name == "config.yaml":
            raise PermissionError(13, "Permission denied")
        return read(path)

    call.monkeypatch.setattr(Path, "read_bytes", forbidden)
    for each in ("status", "report", "sync", "run"):
        code, _, err = command(call, each)
        assert code == 2
        studies.one_sentence(err, "config.yaml cannot be read (Permission denied)")


@pytest.mark.parametrize("name", ["plan.json", "summary.json", "events.jsonl"])
def test_what_only_informs_need_not_be_readable(call: CommandLine, out: Path, name: str) -> None:
    opened, read = Path.open, Path.read_bytes

    def forbidden(function: Callable, path: Path, *rest: object) -> object:
        if path.name == name:
            raise PermissionError(13, "Permission denied")
        return function(path, *rest)

    call.monkeypatch.setattr(
        Path, "open", lambda path, *rest, **named: forbidden(partial(opened, **named), path, *rest)
    )
    call.monkeypatch.setattr(Path, "read_bytes", lambda path: forbidden(read, path))
    for each in ("status", "report", "sync", "run"):
        assert command(call, each)[0] == 0


def test_what_is_huge_is_passed_over(call: CommandLine, out: Path) -> None:
    for name in (*INFORMING, "overwrite.json"):
        (out / name).touch()
        os.truncate(out / name, 1 << 29)  # sparse
    for each in ("status", "report"):
        assert command(call, each)[0] == 0
    (out / "overwrite.json").unlink()
    assert command(call, "run")[0] == 0


def test_rubbish_among_the_claims_stops_nobody(call: CommandLine, out: Path) -> None:
    sorted((out / "cells").iterdir())[0].unlink()
    (out / "leases/folder.0").mkdir(parents=True)
    (out / "leases/folder.beat").mkdir()
    for name, content in (
        ("a.0", b"\xff"),
        ("b.1", b"[" * 100_000),
        ("c.0", b'{"token": 3, "cells": [[]]}'),
        ("d.²", b""),
    ):
        (out / "leases" / name).write_bytes(content)
    assert command(call, "status")[0] == 3
    assert command(call, "run")[::2] == (0, "")
    assert command(call, "status")[::2] == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("each", ["report", "sync"])
def test_a_signal_ends_a_command_that_makes_tables(
    call: CommandLine, out: Path, each: str, number: int, code: int
) -> None:
    before = studies.tree(out)
    call.monkeypatch.setattr(summary, "summarise", lambda *_, **__: signal.raise_signal(number))
    with usual_signals():
        assert command(call, each)[::2] == (code, "")
    assert studies.tree(out) == before
