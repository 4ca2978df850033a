"""One study on a Ray cluster: ``python docs/ray_study.py --tasks 4 --gpus 1 study=copac_scaling out=/shared/scaling``.

A task is one process on the study's folder, which all nodes must see; leases divide the work, so Ray only starts
processes and starts those again whose node is lost. Needs ``pip install ray`` and this package on every node.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import ray


@ray.remote(max_retries=-1, scheduling_strategy="SPREAD")
def shard(number: int, arguments: list[str]) -> int:
    """The exit code of one process; Ray has told it its GPUs through the environment."""
    command = [sys.executable, "-m", "experiments.cli.run", *arguments, f"shard={number}"]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Start the tasks and wait for them; the exit code is the largest of theirs."""
    parser = argparse.ArgumentParser(description="One study on a Ray cluster", epilog="All else is for llm-bandits.")
    parser.add_argument("--tasks", type=int, default=1, help="how many processes")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs that Ray sets aside for each")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each")
    options, arguments = parser.parse_known_args()
    folders = [argument.removeprefix("out=") for argument in arguments if argument.startswith("out=")]
    if len(folders) != 1 or not Path(folders[0]).is_absolute():
        parser.error("give out=DIR, an absolute path that all nodes see")
    ray.init()  # the cluster of RAY_ADDRESS, or the one of this node, or else a new one of this machine
    task = shard.options(num_cpus=options.cpus, num_gpus=options.gpus)
    return max(ray.get([task.remote(number, arguments) for number in range(options.tasks)]))


if __name__ == "__main__":
    sys.exit(main())
