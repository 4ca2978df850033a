"""``python -m experiments.bench``: every rival does the same work on the same instance, warm, compilation apart.

Each is checked before it is timed: the loops for the same mean reward within noise, the solvers for the same objective.
"""

import argparse
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments.bench import instance, lp_loops, ours, primal_dual, solvers, starting
from experiments.bench.report import Row, plain, seconds, show
from experiments.engine import compiler
from experiments.jobs import runner

SIGMAS = 5.0  # a rival whose mean reward is further from ours than this plays another game
DECISIONS = "decisions a second"
SOLVES = "solves a second"


def primal_dual_loop(quick: bool) -> list[Row]:
    """Row 1: primal_dual_resolving, 11 models, one budget, one target."""
    runs, horizon = (2048, 500) if quick else (8192, 2000)
    made = ours.loop("primal_dual_resolving", horizon, 1024)
    world = instance.plain(horizon)
    work = f"Loop, primal-dual: {runs:,} runs of {horizon:,} rounds, 11 models"
    reference = ours.play(made, runs).reward
    rows = [_timed_ours(work, made, runs, horizon, quick)]
    many: list[tuple[str, Callable[..., Any], int, int]] = [
        ("Numba, blocks of runs in step", primal_dual.numba_parallel, runs, horizon),
        ("Numba, one run after the other", primal_dual.numba_run_by_run, runs, horizon),
        ("NumPy over runs, one core", primal_dual.numpy_over_runs, runs, horizon if quick else 500),
        ("Python loop, as libraries do it, one core", primal_dual.python_anew, 4, 500),
        ("Python loop, tuned, one core", primal_dual.python_loop, 4, 500),
    ]
    for who, rival, number, rounds in many:
        rows.append(
            _timed_rival(work, who, rival, world, number, rounds, reference if rounds == horizon else None, quick)
        )
    taken = seconds(partial(primal_dual.mabwiser_ucb, instance.shortened(world, 300), 2, 0), 1)
    rows.append(Row(work=work, who="MABWiser UCB1", rate=600 / taken, unit=DECISIONS, note="another rule, for scale"))
    return rows


def lp_loop(quick: bool) -> list[Row]:
    """Row 2: lp_resolving and StageRoute's routing, an LP in every round."""
    runs, horizon = (1024, 300) if quick else (4096, 2000)
    rows = []
    for rule in ("lp_resolving", "stageroute"):
        made = ours.loop(rule, horizon, 1024)
        world = instance.plain(horizon)
        work = f"Loop, an LP a round: {rule}, {runs:,} runs of {horizon:,} rounds, 11 models"
        reference = ours.play(made, runs).reward
        rows.append(_timed_ours(work, made, runs, horizon, quick))
        rivals: list[tuple[str, Callable[..., Any], int, int]] = [
            ("Numba, simplex warm-started by hand", lp_loops.numba_simplex, runs, horizon),
            ("Python loop, one warm highspy model", lp_loops.highspy_loop, 4, 300),
            ("Python loop, HiGHS through SciPy", lp_loops.highs_loop, 2, 150),
        ]
        for who, rival, number, rounds in rivals:

            def played(world: Any, runs: int, seed: int, rival: Any = rival, rule: str = rule) -> Any:
                return rival(world, runs, seed, rule=rule)

            same = reference if rounds == horizon else None
            rows.append(_timed_rival(work, who, played, world, number, rounds, same, quick))
    return rows


def lp_alone(quick: bool) -> list[Row]:
    """Row 3: the LP alone, in batches."""
    rows = []
    for models, height in solvers.SIZES[:1] if quick else solvers.SIZES:
        for batch in (64, 4096) if quick else (1, 64, 4096):
            programs = solvers.instances(batch, models, height, seed=batch)
            few = solvers.instances(min(batch, 64), models, height, seed=batch)
            truth = solvers.highs_scipy(few)
            known: list[tuple[str, Callable[[Any], np.ndarray], Any]] = [
                ("ours, float64", lambda p: _in64(lambda: solvers.ours(p, np.float64)), programs),
                ("ours, float32", solvers.ours, programs),
                ("highspy, warm model", solvers.highspy_warm, few),
                ("HiGHS through SciPy", solvers.highs_scipy, few),
            ]
            if models == solvers.SIZES[0][0] and batch > 1:
                known.append(("MPAX under vmap, float64", lambda p: _in64(lambda: solvers.mpax_vmap(p)), few))
            for who, solver, given in known:
                error = _error(solver(few), truth)
                number = len(given.bound)
                rate = number / seconds(partial(solver, given), 1 if "MPAX" in who else 5)
                note = f"largest relative error {error:.0e}" + ("" if number == batch else f", {number} at a time")
                work = f"LP alone: {models} models x {height} rows, batches of {batch:,}"
                rows.append(Row(work=work, who=who, rate=rate, unit=SOLVES, note=note))
    return rows


def deployment(quick: bool) -> list[Row]:
    """Row 4: which models to deploy."""
    rows = []
    for models, most in solvers.DEPLOYMENTS[:1] if quick else solvers.DEPLOYMENTS:
        problems = solvers.deployments(64, models, most, seed=models)
        truth = solvers.support_milp(problems)
        for who, solver in (
            ("ours, float32", solvers.support_ours),
            ("HiGHS milp through SciPy", solvers.support_milp),
        ):
            error = _error(solver(problems), truth)
            rate = 64 / seconds(partial(solver, problems), 3)
            work = f"Deployment: at most {most} of {models} models, batches of 64"
            rows.append(Row(work=work, who=who, rate=rate, unit=SOLVES, note=f"largest relative error {error:.0e}"))
    return rows


def sweep(quick: bool) -> list[Row]:
    """Row 5: horizons x budgets x model counts x seeds, end to end through the command line."""
    horizons = [100, 300, 1000] if quick else [100, 200, 300, 500, 800, 1200, 2000, 3000, 5000, 8000]
    budgets = "2e-4,3e-4,5e-4,1e-3" if quick else "1.5e-4,2e-4,2.5e-4,3e-4,4e-4,6e-4,1e-3,2e-3"
    given = [
        *("study=default", "tracker=jsonl", "policies=[primal_dual_resolving]", "seeds=64"),
        *(
            f"sweep.budget_per_task=[{budgets}]",
            f"sweep.horizon={horizons}".replace(" ", ""),
            "sweep.num_models=[5,7,9,11]",
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter()
        done = _python(["-m", "experiments.cli.run", *given, f"out={folder}/out"])
        wall = perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        events = [json.loads(line) for line in (Path(folder) / "out/events.jsonl").read_text().splitlines()]
    compiled = [event for event in events if event["event"] == "compiled"]
    decisions = sum(horizons) * len(budgets.split(",")) * 4 * 64
    note = (
        f"{decisions:,} decisions in {wall:.1f} s with start-up, figures and report; {len(compiled)} compilation(s), "
        f"{sum(event['seconds'] for event in compiled):.1f} s; largest process so far {peak:,.0f} MiB"
    )
    assert done.returncode == 0, done.stderr
    work = f"Sweep: {len(horizons)} horizons x {len(budgets.split(','))} budgets x 4 model counts x 64 seeds"
    return [Row(work=work, who="ours", rate=decisions / wall, unit=DECISIONS, note=note), *_growth(quick)]


def _growth(quick: bool) -> list[Row]:
    """How time and memory grow: with runs and with rounds."""
    sizes = [(1024, 500), (4096, 500), (4096, 2000)] if quick else [(2048, 1000), (8192, 1000), (8192, 4000)]
    times = []
    for runs, horizon in sizes:
        made = ours.loop("primal_dual_resolving", horizon, 1024)
        times.append(seconds(partial(ours.play, made, runs), 3))
    by_runs = np.log(times[1] / times[0]) / np.log(sizes[1][0] / sizes[0][0])
    by_rounds = np.log(times[2] / times[1]) / np.log(sizes[2][1] / sizes[1][1])
    note = f"time grows as runs^{by_runs:.2f} and rounds^{by_rounds:.2f}; memory does not depend on the horizon"
    (runs, horizon), taken = sizes[-1], times[-1]
    return [Row(work="Growth", who="ours", rate=runs * horizon / taken, unit=DECISIONS, note=note)]


def start_up(quick: bool) -> list[Row]:
    """Row 6: programs made for the first and the second time; a study from nothing to its first result."""
    programs = dict(list(starting.PROGRAMS.items())[:1]) if quick else starting.PROGRAMS
    return [*programs_made(programs, repeats=1 if quick else 3), *_study_started()]


def programs_made(programs: dict[str, tuple[str, str]], repeats: int) -> list[Row]:
    """CPU seconds to trace, lower and compile each (routing, deployment), and to find it in the cache; medians."""
    rows = []
    for name, rules in programs.items():
        taken = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                known = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
                given = ["-m", "experiments.bench.starting", *rules]
                taken.append([float(_python(given, known).stdout) for _ in range(2)])
        for who, spent in zip(("first start", "second start"), np.median(taken, axis=0), strict=True):
            note = f"{spent:.1f} CPU s"
            rows.append(Row(work=f"Start-up: {name}", who=who, rate=1 / spent, unit="starts a CPU second", note=note))
    return rows


def _study_started() -> list[Row]:
    """A study of one cell through the command line, on a cold and on a warm compilation cache."""
    given = ["-m", "experiments.cli.run", "tracker=jsonl", "routing=primal_dual_resolving", "horizon=50", "seeds=2"]
    given += ["sweep.budget_per_task=null"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        for number, who in enumerate(("a study of one cell, cold cache", "the same, warm cache")):
            taken = seconds_once(partial(_python, [*given, f"out={folder}/{number}"], cache))
            rows.append(Row(work="Start-up", who=who, rate=1 / taken, unit="starts a second", note=f"{taken:.1f} s"))
        taken = seconds_once(lambda: _python(["-c", "import experiments.jobs.runner"]))
        rows.append(
            Row(work="Start-up", who="imports alone", rate=1 / taken, unit="starts a second", note=f"{taken:.1f} s")
        )
    return rows


def seconds_once(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = perf_counter()
    work()
    return perf_counter() - began


def _python(arguments: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:]), **(environment or {})}
    return subprocess.run([sys.executable, *arguments], env=known, capture_output=True, text=True, check=True)


def _in64(work: Callable[[], np.ndarray]) -> np.ndarray:
    with jax.enable_x64(True):
        return work()


def _error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.max(np.abs(found[: len(truth)] - truth) / np.maximum(np.abs(truth), 1e-12)))


def _timed_ours(work: str, made: ours.Loop, runs: int, horizon: int, quick: bool) -> Row:
    taken = seconds(lambda: ours.play(made, runs), 3 if quick else 5)
    note = f"compiled in {made.program.compile_seconds:.1f} s, apart"
    return Row(work=work, who=f"ours, {runner.cores()} cores", rate=runs * horizon / taken, unit=DECISIONS, note=note)


def _timed_rival(
    work: str,
    who: str,
    rival: Callable[..., Any],
    world: instance.Plain,
    runs: int,
    rounds: int,
    reference: np.ndarray | None,
    quick: bool,
) -> Row:
    """A rival's rate; where it plays as long as we do its mean reward must be ours within noise."""
    shorter = instance.shortened(world, rounds)
    reward = np.asarray(rival(shorter, runs, 1).reward, float)
    note = f"{runs:,} runs of {rounds:,} rounds"
    if reference is not None:
        apart = abs(reward.mean() - reference.mean())
        sigma = np.hypot(reward.std() / np.sqrt(len(reward)), reference.std() / np.sqrt(len(reference)))
        note = f"mean reward {apart / sigma:.1f} standard errors from ours"
        if apart > SIGMAS * sigma:
            raise SystemExit(f"{who}: {note}; it does not play the same game")
    taken = seconds(lambda: rival(shorter, runs, 2), 1 if runs < 10 else 3 if quick else 5)
    return Row(work=work, who=who, rate=runs * rounds / taken, unit=DECISIONS, note=note)


ROWS: dict[str, Callable[[bool], list[Row]]] = {
    "primal_dual": primal_dual_loop,
    "lp_loop": lp_loop,
    "lp": lp_alone,
    "deployment": deployment,
    "sweep": sweep,
    "start": start_up,
}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    compiler.prepare()
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute or two")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows, by name: {','.join(ROWS)}")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := [name for name in wanted if name not in ROWS]:
        print(f"error: --only: there is no row {unknown[0]!r}; there are {', '.join(ROWS)}", file=sys.stderr)
        raise SystemExit(2)
    logging.getLogger("jax").setLevel(logging.ERROR)
    console = Console(width=130) if not sys.stdout.isatty() else Console()
    known = {name: metadata.version(name) for name in ("jax", "numpy", "scipy", "numba", "highspy", "mpax", "mabwiser")}
    machine = {"device": jax.devices()[0].device_kind, "cores": runner.cores(), "machine": platform.machine()}
    machine |= {"python": platform.python_version(), **known}
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    rows: list[Row] = []
    for name in wanted:
        found = ROWS[name](given.quick)
        show(found, console)
        rows += found
        if given.json:
            given.json.write_text(json.dumps({"machine": machine, "quick": given.quick, "rows": plain(rows)}, indent=1))


if __name__ == "__main__":
    main()
