"""``--help``: every key with its comment, every file of a group, every rule with its parameters, ranges and defaults.

Keys come from the YAML files in ``conf``, rules from their registries: nothing is written down twice.
"""

import textwrap
from collections.abc import Iterator
from importlib import resources

from envs.registry import Description, describe

_WIDTH = 120
_GROUPS = ("study", "env", "demand", "forecaster", "tracker")
_USAGE = """\
llm-bandits [study=NAME] [key=value ...]

Simulates bandit algorithms that choose language models under budgets and service targets, many runs at once.
Sweep a key with a list: sweep.horizon=[1000,10000]; a rule's parameter: sweep.policy.ucb1.width=[1,2].
Look at the configuration that arguments make, without running it: --cfg job [key=value ...]
"""
_FAMILIES = {  # kind of part: (title, how its parameters are given)
    "routing": ("Routing rules", "policy.{name}.{parameter}"),
    "deployment": ("Deployment rules", "policy.{name}.{parameter}"),
    "forecaster": ("Forecasters", "forecaster.{parameter}"),
    "demand": ("Demand processes", "demand.{parameter}"),
}


def page() -> str:
    """The whole help as text, lines of at most 120 characters where its parts allow."""
    parts = [_USAGE, *_groups(), *_keys()]
    for kind, registry in _registries().items():
        title, key = _FAMILIES[kind]
        parts.append(_heading(f"{title} (your own: rules=[FILE])"))
        parts += [_member(member, key) for member in registry]
    parts += [_heading("Confidence bounds, for every policy"), _member(_confidence(), "policy.{name}.{parameter}")]
    return "\n".join(parts)


def _groups() -> Iterator[str]:
    yield _heading("Files in conf, chosen by group=NAME")
    for group in _GROUPS:
        names = sorted(file.name.removesuffix(".yaml") for file in (resources.files("conf") / group).iterdir())
        listed = ", ".join(name for name in names if not name.startswith("_"))
        yield textwrap.fill(f"{group}: {listed}", _WIDTH, subsequent_indent="    ")


def _keys() -> Iterator[str]:
    """The text of the configuration's own files, comments included, with whole paths."""
    conf = resources.files("conf")
    for prefix, file in (("", "config"), ("env.", "env/routerbench"), ("demand.", "demand/diurnal")):
        yield _heading(f"Keys of {prefix.rstrip('.') or 'the study'}, with their defaults")
        lines = (conf / f"{file}.yaml").read_text(encoding="utf-8").partition("\nhydra:")[0].splitlines()
        yield "\n".join(f"{prefix}{line}" for line in lines if line and line[0] not in " #" and line != "defaults:")


def _registries() -> dict[str, list[Description]]:
    from experiments.config.study import REGISTRIES  # brings JAX with it

    return {kind: registry.describe() for kind, registry in REGISTRIES.items()}


def _confidence() -> Description:
    from bandits.estimators.confidence import Confidence

    return describe("confidence", Confidence)


def _member(member: Description, key: str) -> str:
    """A class: its name and first line, and a line for each parameter."""
    lines = [textwrap.fill(f"{member.name}: {member.summary}", _WIDTH, subsequent_indent="    ")]
    for parameter in member.parameters:
        default = "(must be given)" if parameter.default is None else parameter.default
        name = key.format(name=member.name, parameter=parameter.name)
        lines.append(
            f"    {name}: {default} # must {parameter.allowed}" if parameter.allowed else f"    {name}: {default}"
        )
    return "\n".join(lines)


def _heading(text: str) -> str:
    return f"\n== {text} =="
