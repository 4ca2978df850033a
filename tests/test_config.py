"""Bad input is one clear sentence; sweeps become the cells that were meant."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.errors import InputError
from experiments.config import study as study_config
from tests import studies
from tests.studies import CATALOGUE, RULE, TRACE, CommandLine

FILES = {
    "lacking.csv": CATALOGUE.replace("quality", "qualty"),
    "words.csv": CATALOGUE.replace("0.8", "good"),
    "twice.csv": CATALOGUE.replace("large", "small"),
    "trace.csv": TRACE,
    "worded.csv": TRACE.replace("5", "five"),
    "raises.py": "raise RuntimeError('broken\\non purpose')\n",
    "english.py": "this is no Python\n",
    "leaves.py": "import sys\n\nsys.exit(3)\n",
    "text.txt": "nothing\n",
    "mine.py": RULE,
    "a_file": "",
    "foreign/notes.txt": "mine",
}

REFUSED = {
    # Keys: the nearest right one is named.
    "horizn=3": ["horizn", "'horizon'"],
    "env.budget_per_tsk=1": ["env.budget_per_tsk", "'budget_per_task'"],
    "envv.target=1": ["envv", "'env'"],
    "policy.etaa=1": ["policy.etaa", "RULE.PARAMETER", "policy.primal_dual_resolving.eta"],
    "policy.primal_dual_resolving.etaa=1": ["policy.primal_dual_resolving.etaa", "'eta'"],
    "policies=[copac_lp]": ["copac_lp", "now called 'lp_resolving'"],
    "policy.copac_primal_dual.eta=1": ["policy.copac_primal_dual", "now called 'primal_dual_resolving'"],
    "expected_exponents={copac_lp: {regret: 0.5}}": ["copac_lp", "now called 'lp_resolving'"],
    "published=[{policy: uniform}]": ["published", "regret"],
    "published=[{policy: uniform, regrt: 1, regret: 2}]": ["published.regrt", "'regret'"],
    "policy.ucb=3": ["policy.ucb", "'ucb1'"],
    "policy.ucb1=3": ["policy.ucb1 is 3", "mapping"],
    "policy.uniform.width=3": ["policy.uniform.width", "'uniform' has no parameters"],
    "policy=ucb1": ["policy"],
    "demand.meen=3": ["demand.meen", "'mean'"],
    "forecaster.upward_bais=1": ["forecaster", "'upward_bais'", "'upward_bias'"],
    "tracker.projct=x": ["tracker", "'projct'"],
    "sweep.horizn=[1,2]": ["sweep.horizn", "'horizon'"],
    "sweep.policy.etaa=[1]": ["sweep.policy.etaa", "sweep.policy.primal_dual_resolving.eta"],
    "sweep.policy.primal_dual_resolving.etaa=[1]": ["sweep.policy.primal_dual_resolving.etaa", "'eta'"],
    "sweep.env.latency_slo=[1]": ["sweep.env.latency_slo", "'latency_slo_s'"],
    "sweep.demand.meen=[1]": ["sweep.demand.meen", "'mean'"],
    "sweep.forecaster.upward=[1]": ["sweep.forecaster.upward", "'upward_bias'"],
    "sweep.polcy.eta=[1]": ["sweep.polcy", "'policy'"],
    "sweep.seeds=[1,2]": ["sweep.seeds", "horizon"],
    "~horizon": ["horizon", "missing"],
    "~env.target": ["env.target", "missing"],
    "~demand.process": ["demand.process"],
    "~forecaster.name": ["forecaster.name"],
    # Names of files of configuration.
    "study=defalt": ["study", "'defalt'", "'default'"],
    "demand=constnt": ["demand", "'constnt'", "'constant'"],
    "env=routerbnch": ["env", "'routerbnch'", "'routerbench'"],
    "forecaster=ewna": ["forecaster", "'ewna'", "'ewma'"],
    "tracker=wndb": ["tracker", "'wndb'", "'wandb'"],
    "env=3": ["env", "3"],
    "env=null": ["env"],
    # Names in the configuration.
    "forecaster.name=ewna": ["forecaster.name", "'ewma'"],
    "demand.process=constnt": ["demand.process", "'constant'"],
    "env.catalogue=routerbnch": ["'routerbnch'", "'routerbench'"],
    "tracker.name=mlflow": ["tracker.name", "'mlflow'", "jsonl, wandb"],
    "precision=float16": ["precision", "'float16'", "float32, float64"],
    "sweep.mode=zipp": ["sweep.mode", "'zipp'", "product, zip"],
    "env.budget_usd=5": ["env.budget_per_task", "env.budget_usd", "null"],
    "env.budget_usd=0": ["env.budget_usd", "above 0"],
    "env.cost_unit=per_tokn": ["env.cost_unit", "per_1k_tokens, per_token"],
    "env.cost_unit=per_token": ["env.cost_unit", "usd_per_1k_tokens"],
    "env.cost_cv=-1": ["env.cost_cv", "at least 0"],
    "env.latency_cv=much": ["env.latency_cv", "number"],
    "env.budget_rule=stopp": ["env.budget_rule", "skip, stop"],
    "env.quality_noise=gauss": ["env.quality_noise", "bernoulli, beta"],
    "env.demand_seen=during": ["env.demand_seen", "before, after"],
    # Numbers.
    "env.budget_per_task=-1": ["env.budget_per_task", "-1", "above 0"],
    "env.budget_per_task=0": ["env.budget_per_task", "above 0"],
    "env.budget_per_task=nan": ["env.budget_per_task", "nan", "finite"],
    "env.budget_per_task=inf": ["env.budget_per_task", "inf", "finite"],
    "env.budget_per_task=1e300": ["env.budget_per_task", "1e+300"],
    "env.budget_per_task=cheap": ["env.budget_per_task", "'cheap'", "number"],
    "horizon=0": ["horizon is 0"],
    "horizon=-5": ["horizon is -5"],
    "horizon=2.5": ["horizon is 2.5", "whole number"],
    "horizon=nan": ["horizon is nan", "whole number"],
    "horizon=": ["horizon", "whole number"],
    "horizon=[10,20]": ["horizon is [10, 20]", "whole number"],
    "horizon=1e20": ["horizon", "2147483646"],
    "seeds=0": ["seeds is 0"],
    "root_seed=-1": ["root_seed is -1"],
    "root_seed=4294967296": ["root_seed"],  # JAX would drop the high bits
    "eval_rounds=1": ["eval_rounds is 1"],
    "chunk_rows=0": ["chunk_rows is 0"],
    "checkpoint_minutes=-1": ["checkpoint_minutes is -1", "at least 0"],
    "env.target=1.5": ["env.target is 1.5", "at most 1"],
    "env.target=-0.1": ["env.target is -0.1", "at least 0"],
    "env.target=nan": ["env.target", "finite"],
    "env.floors={quality: 1.5}": ["env.floors.quality", "1.5"],
    "env.floors={qualty: 0.5}": ["env.floors.qualty"],
    "env.resources={energy_wh: 0.2}": ["env.resources.energy_wh", "routerbench.csv"],
    "env.num_models=12": ["num_models", "11", "12"],
    "env.num_models=0": ["env.num_models is 0"],
    "sweep.num_models=[2,99]": ["num_models", "11", "99"],
    "demand.mean=0": ["demand.mean", "above 0"],
    "policy.confidence.confidence=-1": ["policy.confidence.confidence is -1"],
    "policy.primal_dual_resolving.eta=-1": [
        "policy.primal_dual_resolving.eta is -1"
    ],  # also when no policy of this study has it
    "policy.primal_dual_resolving.optimizer=adamm": ["policy.primal_dual_resolving.optimizer", "'adamm'", "adam"],
    # Keys as they were before parameters belonged to rules.
    "policy.eta=0.1": ["policy.eta", "by rule", "write policy.primal_dual_resolving.eta"],
    "policy.width=2": ["policy.width", "write policy.ucb1.width"],
    "policy.kappa=2": ["policy.kappa", "write policy.confidence.kappa"],
    "policy.confidence=0.5": ["policy.confidence", "policy.confidence.confidence"],
    "policy.penalty=1": ["by rule", "policy.ad_ucb.penalty or policy.lp_oracle.penalty or policy.lp_resolving.penalty"],
    "sweep.policy.eta=[0.1,1]": ["sweep.policy.eta", "write sweep.policy.primal_dual_resolving.eta"],
    "sweep.policy.confidence=[0.1,1]": ["sweep.policy.confidence", "sweep.policy.confidence.confidence"],
    # Kinds.
    "env.floors=3": ["env.floors", "3"],
    "env.floors=null": ["env.floors"],
    "env.resources=null": ["env.resources"],
    "expected_exponents=3": ["expected_exponents", "3"],
    "expected_exponents={regret:0.5}": ["expected_exponents.regret", "policy"],
    "expected_exponents={lp_resolvingp:{regret:0.5}}": ["expected_exponents.lp_resolvingp", "'lp_resolving'"],
    "expected_exponents={uniform:0.5}": ["expected_exponents.uniform", "0.5", "mapping"],
    "expected_exponents={uniform:{regrets:0.5}}": ["expected_exponents.uniform.regrets", "'regret'"],
    "expected_exponents={uniform:{regret:half}}": ["expected_exponents.uniform.regret", "'half'"],
    "distributed=true": ["distributed is gone", "the same out=DIR on every host"],
    "distributed.coordinator='a:1'": ["distributed is gone", "docs/cluster.md"],
    "checkpoints=50": ["checkpoints is now called eval_rounds"],
    "checkpoint_spacing=linear": ["checkpoint_spacing is now called eval_spacing"],
    "claims={regret:0.5}": ["claims", "expected_exponents={lp_resolving: {regret: 0.5}}"],
    "rules=null": ["rules", "list"],
    "rules=mine.py": ["rules", "list", "mine.py"],
    "rules=[3]": ["rules", "3"],
    "policies=uniform": ["policies", "'uniform'", "list"],
    "policies=[]": ["policies", "empty"],
    "policies=[3]": ["policies", "3"],
    "policies=[[uniform]]": ["policies", "['uniform']"],
    "name=": ["name"],
    "name=a/b": ["name", "slash"],
    f"name={'x' * 300}": ["name", "200 bytes"],
    "name=a\x07b": ["name", "U+0007"],
    "out=a\nb": ["out", "U+000A"],
    "out=a\udcffb": ["out", "U+DCFF"],
    "env.catalogue=a\x85b": ["env.catalogue", "U+0085"],
    "policies=[{name: 'a\u2028b', routing: uniform}]": ["policies", "U+2028"],
    "out=": ["out"],
    # Axes.
    "sweep.horizon=[]": ["sweep.horizon", "empty"],
    "sweep.horizon=30": ["sweep.horizon is 30", "[30]"],
    "sweep.horizon=[0]": ["horizon is 0"],
    "sweep.budget_per_task=[1e-3,nan]": ["env.budget_per_task", "nan"],
    "sweep.env=3": ["sweep.env"],
    # Policies.
    "policies=[lp_resolvingp]": ["'lp_resolvingp'", "'lp_resolving'"],
    "policies=[uniform,uniform]": ["policies", "two", "'uniform'", "name"],
    "policies=[{routing:primal_dual_resolving,etaa:1}]": ["policies.primal_dual_resolving.etaa", "'eta'"],
    "policies=[{routing:primal_dual_resolving,eta:-1}]": ["eta is -1"],
    "policies=[{routing:primal_dual_resolving,optimizer:adamm}]": ["optimizer", "'adamm'", "adam"],
    "policies=[{name:mine}]": ["'mine'"],
    "policies=[{routing:[uniform]}]": ["routing", "['uniform']"],
    "policies=[{routing:uniform,forecaster:ewna}]": ["'ewna'", "'ewma'"],
    "policies=[{routing:uniform,forecaster:{smoothing:0.2}}]": ["forecaster", "name"],
    "policies=[{routing:uniform,forecaster:3}]": ["forecaster", "3"],
    # Files.
    "env.catalogue=lacking.csv": ["lacking.csv", "quality", "qualty"],
    "env.catalogue=words.csv": ["words.csv, line 3", "'quality'", "'good'"],
    "env.catalogue=twice.csv": ["twice.csv, line 3", "'small'", "line 2"],
    "env.catalogue=missing.csv": ["'missing.csv'"],
    "env.catalogue=foreign": ["'foreign'"],
    "demand=trace": ["demand.path"],
    "rules=[missing.py]": ["rules", "'missing.py'"],
    "rules=[raises.py]": ["raises.py", "RuntimeError", "broken on purpose"],
    "rules=[english.py]": ["english.py", "SyntaxError", "line 1"],
    "rules=[leaves.py]": ["leaves.py", "SystemExit"],
    "rules=[text.txt]": ["text.txt"],
    "rules=[foreign]": ["rules", "foreign"],
    "out=a_file": ["out", "a_file"],
    "out=a_file/within": ["out", "a_file/within"],
    "out=foreign": ["out", "foreign", "out=DIR"],
    # Keys that stand elsewhere are named with their full path.
    "budget_per_task=1": ["budget_per_task", "'sweep.budget_per_task' or 'env.budget_per_task'"],
    "budgett_per_task=1": ["budgett_per_task", "'sweep.budget_per_task'"],
    "mean=3": ["mean", "'demand.mean'"],
    "eta=1": ["eta", "'policy.primal_dual_resolving.eta"],
    "smoothing=1": ["smoothing", "'forecaster.smoothing'"],
    "demand.smoothing=1": ["demand.smoothing", "'forecaster.smoothing'"],
    "env.horizon=3": ["env.horizon", "'horizon'"],
    "latency_slo_s=1": ["latency_slo_s", "'env.latency_slo_s'"],
    "sweep.eta=[1]": ["sweep.eta", "'sweep.policy.primal_dual_resolving.eta"],
    "sweep.latency_slo_s=[1]": ["sweep.latency_slo_s", "'sweep.env.latency_slo_s'"],
    "sweep.env.eta=[1]": ["sweep.env.eta", "'sweep.policy.primal_dual_resolving.eta"],
    "sweep.target={a:1}": ["sweep.target", "list"],
    "sweep.policy=3": ["sweep.policy", "mapping"],
    # What Hydra would say in its own words.
    "+horizon=3": ["horizon=VALUE"],
    "~horizn": ["~horizn", "'horizon'"],
    "~env.targt": ["~env.targt", "'target'"],
    "~env": ["env is missing"],
    "~env=streaming": ["~env=streaming"],
    "+env=streaming": ["env is given more than once"],
    "++env=streaming": ["env=NAME"],
    "env@foo=streaming": ["env@foo", "env@worlds.NAME"],
    "horizon=${x}": ["horizon", "'x'"],
    "horizon=${oc.env:NOPE}": ["horizon", "NOPE"],
    "horizon=choice(1,2)": ["sweep.horizon=[10,20]"],
    "policies={a: b}": ["policies", "list"],
    "env.floors=[quality]": ["env.floors", "mapping"],
    "hydra.nothing=3": ["hydra.nothing"],
    "hydra=x": ["hydra=x"],
    "hydra.mode=x": ["hydra.mode"],
    "env=true": ["env=true", "conf/env"],
    "demand=1e3": ["demand=1e3", "conf/demand"],
    "--cfg": ["--cfg", "job, hydra, all"],
    "--info=nope": ["--info", "plugins"],
    "--config-name=nope": ["'nope'"],
    # Sizes that cannot fit.
    "seeds=1000000000": ["seeds", "1,000,000,000", "GB"],
    "eval_rounds=1000000000": ["eval_rounds", "1000000"],
    "x" * 5000 + "=1": ["cannot read the argument"],
    "horizon=" + "9" * 5000: ["horizon", "digits"],
    "horizon=" + "[" * 500 + "]" * 500: ["nested too deeply"],
    "out=" + "a" * 5000: ["out", "File name too long"],
    "out=~nouser/x": ["out", "~nouser/x"],
    "env.catalogue=no\nsuch": ["no\\nsuch"],
    # Arguments that cannot be read.
    "horizon": ["'horizon'", "key=value"],
    "horizon=[1,": ["'horizon=[1,'"],
    "horizon=10,20": ["horizon=10,20", "[10,20]"],
    "=3": ["=3"],
    "a b=c": ["'a b=c'"],
    "horizon=${nothing}": ["nothing"],
    "sweep.horizon={a:1}": ["sweep.horizon"],
    "--horizon": ["--horizon"],
}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    studies.write(tmp_path, FILES)
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


def refused(call: CommandLine, arguments: list[str], words: list[str]) -> None:
    before = studies.tree(call.folder)
    ran = call(*arguments)
    studies.one_sentence(ran.err, *words)
    assert ran.code == 2
    studies.at_most_opening(ran.out)
    after = studies.tree(call.folder)
    assert {name: text for name, text in after.items() if "__pycache__" not in name} == before


@pytest.mark.parametrize("argument", REFUSED)
def test_one_wrong_argument_is_refused_in_one_sentence(call: CommandLine, argument: str) -> None:
    refused(call, [argument], REFUSED[argument])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep.mode=zip", "sweep.horizon=[10,20]", "sweep.target=[0.1]"], ["zip", "equally long", "2", "1"]),
        (["demand=trace", "demand.path=missing.csv"], ["demand.path", "missing.csv"]),
        (["demand=trace", "demand.path=trace.csv", "demand.column=reqests"], ["demand.column", "'requests'"]),
        (["demand=trace", "demand.path=worded.csv"], ["worded.csv, line 3", "'five'"]),
        (["demand=trace", "demand.path=3"], ["demand.path", "3"]),
        (["rules=[mine.py]", "policies=[{routing:mine,warmt:1}]"], ["policies.mine.warmt", "'warmth'"]),
        (["rules=[mine.py]", "policies=[{routing:mine,warmth:2}]"], ["warmth is 2"]),
        (["tracker=wandb", "tracker.mode=onlin"], ["tracker.mode", "'online'"]),
        (["-m", "shard=range(0,100000000)"], ["shard", "10,000"]),
        (["-m", "shard=range(0,5,0)"], ["shard", "range"]),
        (
            ["forecaster=seasonal_naive", "forecaster.season_capacity=1048576", "seeds=4000", "chunk_rows=4000"],
            ["chunk_rows", "GB"],
        ),
        (["demand.mean=1e38", "horizon=100"], ["demand.mean is 1e+38"]),
        (["tracker=wandb", "tracker.projct=x"], ["tracker", "'projct'", "'project'"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" in value[0] else "",
)
def test_arguments_that_are_wrong_together_are_refused_in_one_sentence(
    call: CommandLine, arguments: list[str], words: list[str]
) -> None:
    refused(call, arguments, words)


def test_a_mode_of_wandb_that_does_not_exist_is_refused(call: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    refused(call, ["tracker=wandb"], ["WANDB_MODE", "'nonsense'", "offline"])


def swept_values(*arguments: str) -> list[dict]:
    return [cell.swept for cell in study_config.study_from(studies.plain(*arguments)).cells]


def test_a_product_has_every_combination() -> None:
    found = swept_values("sweep.horizon=[10,20]", "sweep.budget_per_task=[1e-4,1e-3]")
    wanted = [{"horizon": horizon, "budget_per_task": budget} for horizon in (10, 20) for budget in (1e-4, 1e-3)]
    assert len(found) == 4
    assert {frozenset(values.items()) for values in found} == {frozenset(values.items()) for values in wanted}


def test_a_zip_pairs_its_axes() -> None:
    found = swept_values("sweep.mode=zip", "sweep.target=[0.5,0.9]", "sweep.env.latency_slo_s=[3,9]")
    assert found == [{"target": 0.5, "env.latency_slo_s": 3}, {"target": 0.9, "env.latency_slo_s": 9}]


@pytest.mark.parametrize(
    ("axis", "values", "read"),
    [
        ("budget_per_task", [1e-4, None], lambda cell: cell.env.budget_per_task),
        ("horizon", [10, 20], lambda cell: cell.horizon),
        ("num_models", [2, 3], lambda cell: cell.num_models),
        ("target", [0.5, None], lambda cell: cell.env.target),
        ("policy.confidence.confidence", [0.1, 1.0], lambda cell: cell.policy.confidence["confidence"]),
        ("policy.primal_dual_resolving.eta", [0.1, 1.0], lambda cell: cell.policy.parameters["eta"]),
        ("policy.primal_dual_resolving.optimizer", ["sgd", "adam"], lambda cell: cell.policy.parameters["optimizer"]),
        ("demand.mean", [5.0, 50.0], lambda cell: cell.demand["mean"]),
        ("env.latency_slo_s", [3.0, 9.0], lambda cell: cell.env.latency_slo_s),
        ("forecaster.upward_bias", [0.0, 0.2], lambda cell: cell.forecaster["upward_bias"]),
    ],
)
def test_an_axis_sets_its_value(axis: str, values: list, read) -> None:
    listed = ",".join("null" if value is None else str(value) for value in values)
    cells = study_config.study_from(studies.plain("policies=[primal_dual_resolving]", f"sweep.{axis}=[{listed}]")).cells
    assert [read(cell) for cell in cells] == values
    assert [cell.swept for cell in cells] == [{axis: value} for value in values]


@pytest.mark.parametrize("direct", ["horizon=50", "env.budget_per_task=5e-4", "env.target=0.5", "policy.ucb1.width=1"])
def test_a_value_given_directly_replaces_the_sweep_of_a_study(direct: str) -> None:
    axis = {"horizon": "horizon", "env.budget_per_task": "budget_per_task", "env.target": "target"}
    key = direct.partition("=")[0]
    swept = studies.plain("policies=[primal_dual_resolving]", direct)["sweep"]
    assert swept.get(axis.get(key)) is None
    assert all(axis.get(key, key) not in values for values in swept_values("policies=[primal_dual_resolving]", direct))


def test_an_axis_given_with_a_value_stays() -> None:
    assert swept_values("horizon=50", "sweep.horizon=[10,20]") == [{"horizon": 10}, {"horizon": 20}]


def test_null_switches_an_axis_off() -> None:
    assert swept_values(
        "sweep.horizon=null", "sweep.target=[0.5]", "sweep.policy={primal_dual_resolving: {eta: null}, ucb1: null}"
    ) == [{"target": 0.5}]


def test_policies_without_a_swept_parameter_are_not_repeated() -> None:
    arguments = ("policies=[uniform,primal_dual_resolving]", "sweep.policy.primal_dual_resolving.eta=[0.1,0.3,1]")
    names = [cell.policy.name for cell in study_config.study_from(studies.plain(*arguments)).cells]
    assert sorted(names) == ["primal_dual_resolving"] * 3 + ["uniform"]


def test_policies_with_their_own_forecaster_are_not_repeated_over_the_study_s() -> None:
    own = "policies=[uniform,{routing:uniform,name:own,forecaster:ewma}]"
    found = studies.planned(own, "sweep.forecaster.upward_bias=[0,0.1]")
    assert len({cell.id for cell in found}) == len(found) == 3


def test_a_swept_parameter_wins_over_a_policy_s_own() -> None:
    own = "policies=[{routing:primal_dual_resolving,name:own,eta:0.7}]"
    cells = study_config.study_from(studies.plain(own, "sweep.policy.primal_dual_resolving.eta=[0.1,0.3]")).cells
    assert [cell.policy.parameters["eta"] for cell in cells] == [0.1, 0.3]
    (alone,) = study_config.study_from(studies.plain(own)).cells
    assert alone.policy.parameters["eta"] == 0.7


def test_refusals_are_input_errors() -> None:
    with pytest.raises(InputError, match="seeds is 0"):
        study_config.study_from({**studies.plain(), "seeds": 0})
