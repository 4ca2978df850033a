"""Who exists when: every arrival pattern by hand, and every refusal of a staged world in one sentence."""

from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs import catalogue as catalogues
from envs import inventory, ledger
from envs.catalogue import Catalogue
from envs.errors import InputError
from envs.inventory import NEVER, ArrivalPattern, Inventory
from tests import worlds
from tests.test_timeline import starts_of

FALSE_ALARM = 1e-4


def schedule(**overrides: Any) -> ArrivalPattern:
    return ArrivalPattern(**{**worlds.SCHEDULE, **overrides})


def catalogue_with(released: list[float], retired: list[float] | None = None) -> Catalogue:
    """Models released and retired on these days, NaN for unknown."""
    number = len(released)
    gone = [np.nan] * number if retired is None else retired
    return replace(
        worlds.catalogue_of(np.linspace(0.2, 0.8, number), np.full(number, 1e-4)),
        released=np.array(released, float),
        retired=np.array(gone, float),
    )


def built(
    number: int | Catalogue = 4, horizon: int = 100, stages: int = 5, padded: int | None = None, **overrides: Any
) -> Inventory:
    chosen = worlds.catalogue(number) if isinstance(number, int) else number
    return inventory.build(schedule(**overrides), chosen, horizon, stages, padded or chosen.num_models)


def arrivals(*arguments: Any, **overrides: Any) -> list[int]:
    return np.asarray(built(*arguments, **overrides).arrival).tolist()


def retirements(*arguments: Any, **overrides: Any) -> list[int]:
    return np.asarray(built(*arguments, **overrides).retirement).tolist()


# Patterns.
def test_at_the_start_all_are_there_for_ever() -> None:
    assert arrivals(arrivals="start") == [0, 0, 0, 0]
    assert retirements(arrivals="start") == [NEVER] * 4


def test_even_arrivals_divide_the_span() -> None:
    assert arrivals(4, arrivals="even", arrival_span=0.6) == [0, 20, 40, 60]
    assert arrivals(6, 1000, arrivals="even", arrival_span=0.5, initial_models=2) == [0, 0, 125, 250, 375, 500]
    assert arrivals(4, arrivals="even", arrival_span=1.0, initial_models=3) == [0, 0, 0, 99]  # within the run
    assert arrivals(4, arrivals="even", initial_models=4) == [0, 0, 0, 0]
    assert arrivals(4, 3, 1, arrivals="even", arrival_span=0.01) == [0, 1, 1, 1]  # a newcomer is never there at 0


def test_poisson_arrivals_are_reproducible_sorted_and_within_the_span() -> None:
    for seed in range(30):
        found = arrivals(8, 1000, arrivals="poisson", arrival_span=0.4, initial_models=2, arrival_seed=seed)
        assert found == arrivals(8, 1000, arrivals="poisson", arrival_span=0.4, initial_models=2, arrival_seed=seed)
        assert found[:2] == [0, 0] and found == sorted(found)
        assert all(1 <= at <= 400 for at in found[2:])
    assert arrivals(8, arrivals="poisson", arrival_seed=1) != arrivals(8, arrivals="poisson", arrival_seed=2)


def test_poisson_arrivals_are_uniform_over_the_span() -> None:
    """False alarms with a chance of 1e-4, over the choice of the fixed seeds."""
    many = [arrivals(11, 10**6, arrivals="poisson", arrival_span=0.5, arrival_seed=seed)[1:] for seed in range(200)]
    assert stats.kstest(np.ravel(many) / 5e5, "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("pattern", ["even", "poisson", "catalogue"])
def test_a_longer_run_has_the_same_shape(pattern: str) -> None:
    models = catalogue_with([0.0, 10.0, 40.0, 70.0])
    short, long = (np.array(arrivals(models, horizon, arrivals=pattern)) for horizon in (10_000, 1_000_000))
    np.testing.assert_allclose(short / 10_000, long / 1_000_000, atol=1.01e-4)
    assert len(set(short)) == 4


@pytest.mark.parametrize(
    ("number", "horizon", "stages"), [(4, 100, 5), (4, 1000, 10), (4, 10, 2), (2, 7, 1), (11, 50, 3), (6, 64, 64)]
)
def test_after_stage_the_jth_of_j_comes_one_round_after_its_stage_starts(
    number: int, horizon: int, stages: int
) -> None:
    newcomers = number - 1
    starts = starts_of(horizon, stages)
    expected = [starts[j * stages // (newcomers + 1)] + 1 for j in range(1, newcomers + 1)]
    found = arrivals(number, horizon, stages, arrivals="after_stage")
    assert found == [0, *(min(at, horizon - 1) for at in expected)]


def test_after_stage_by_hand() -> None:
    """Ten rounds in three stages that start at 0, 4 and 7; three newcomers after stages 0, 1 and 2."""
    assert arrivals(4, 10, 3, arrivals="after_stage") == [0, 1, 5, 8]


def test_catalogue_dates_are_scaled() -> None:
    """The second oldest of four sets round 0, the youngest comes at the end of the span: 60 rounds for 120 days."""
    models = catalogue_with([180.0, 0.0, 60.0, 100.0], [np.nan, 260.0, 300.0, 102.0])
    found = {"arrivals": "catalogue", "initial_models": 2, "arrival_span": 0.6}
    assert arrivals(models, **found) == [60, 0, 0, 20]
    assert retirements(models, **found) == [NEVER, 100, 120, 21]
    alike = catalogue_with([5.0, 5.0, 5.0])
    assert arrivals(alike, arrivals="catalogue", initial_models=3) == [0, 0, 0]
    assert arrivals(alike, arrivals="catalogue", initial_models=1) == [0, 0, 0]  # nobody is later than anybody


def test_the_catalogue_s_retirements_count_only_where_its_dates_do() -> None:
    models = catalogue_with([0.0, 0.0, 50.0], [100.0, np.nan, np.nan])
    assert retirements(models, arrivals="catalogue", initial_models=2)[0] == 120
    assert retirements(models, arrivals="start") == retirements(models, arrivals="even") == [NEVER] * 3


def test_given_shares_of_the_run() -> None:
    given = {"arrivals": "given", "arrival_at": (0.25, 0.0, 0.5, 0.999), "retirement_at": (None, 0.5, 1.0, 3.0)}
    assert arrivals(**given) == [25, 0, 50, 100]
    assert retirements(**given) == [NEVER, 50, 100, 300]
    assert arrivals(horizon=1000, **given) == [250, 0, 500, 999]
    assert retirements(arrivals="given", arrival_at=(0.25, 0.0, 0.5, 0.75)) == [NEVER] * 4


def test_a_lifetime_counts_from_each_arrival() -> None:
    assert retirements(4, arrivals="even", arrival_span=0.6, lifetime=0.25) == [25, 45, 65, 85]
    assert retirements(4, arrivals="start", lifetime=2.0) == [200] * 4
    dated = catalogue_with([0.0, 60.0], [30.0, np.nan])
    assert retirements(dated, arrivals="catalogue", arrival_span=0.6, lifetime=0.5) == [30, 110]
    assert retirements(dated, arrivals="catalogue", arrival_span=0.6, lifetime=0.2) == [20, 80]  # the earlier end


def test_a_lifetime_is_its_share_of_the_run_rounded_up_and_not_one_round_more() -> None:
    """7 % of 100 rounds are 7 rounds, although 0.07 * 100 is a hair above 7 in floating point."""
    wrong = []
    for percent in range(1, 100):
        for horizon in (100, 300, 1000, 5000):
            exact = ceil(Fraction(percent, 100) * horizon)
            found = retirements(2, horizon, arrivals="start", lifetime=percent / 100)[0]
            if found != exact:
                wrong.append((percent / 100, horizon, found, exact))
    assert not wrong, f"{len(wrong)} of 396 (lifetime, horizon, found, exact), the first: {wrong[:3]}"


def test_who_comes_first() -> None:
    models = catalogue_with([50.0, np.nan, 10.0, 30.0, np.nan])
    assert arrivals(models, arrivals="even", arrival_span=0.4) == [0, 10, 20, 30, 40]
    released = {"arrival_order": "released", "arrivals": "even", "arrival_span": 0.4}
    assert arrivals(models, **released) == [20, 30, 0, 10, 40]  # those without a date come last, as listed
    assert arrivals(models, initial_models=3, **released) == [0, 20, 0, 0, 40]
    assert arrivals(models, 10, 3, arrivals="after_stage", arrival_order="released")[2] == 0


# Availability and changes.
def test_available_from_arrival_to_the_round_before_retirement() -> None:
    made = built(3, 20, padded=5, arrivals="given", arrival_at=(0.0, 0.25, 0.5), retirement_at=(0.5, None, 0.55))
    for t in range(20):
        expected = [t < 10, t >= 5, t == 10, False, False]
        found = inventory.available(made, jnp.int32(t))
        assert np.asarray(found).tolist() == expected, t


def test_padding_is_never_available() -> None:
    made = built(2, 2**31 - 2, padded=6, arrivals="even")
    for t in (0, 1, 10**6, 2**31 - 3):
        assert not np.asarray(inventory.available(made, jnp.int32(t)))[2:].any()
    assert made.arrival.dtype == made.retirement.dtype == np.int32
    assert len(made.arrival) == len(made.retirement) == 6


def test_changes_are_the_rounds_within_the_run_in_order_with_their_repetitions() -> None:
    given = {"arrival_at": (0.0, 0.3, 0.3, 0.9), "retirement_at": (0.3, 1.0, 2.0, None)}
    made = built(4, 100, padded=5, arrivals="given", **given)
    assert inventory.changes(made, 100).tolist() == [30, 30, 30, 90, *[NEVER] * 6]
    assert inventory.changes(made, 90).tolist() == [30, 30, 30, *[NEVER] * 7]  # a run that is cut off
    assert inventory.changes(made, 91).tolist() == [30, 30, 30, 90, *[NEVER] * 6]
    assert inventory.changes(built(2), 100).tolist() == [NEVER] * 4
    assert inventory.changes(made, 100).dtype == np.int32


# Refusals.
def one_sentence(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text and len(text) < 260 and not text.endswith("."), text
    assert not [word for word in words if word not in text], text


GIVEN = {"arrivals": "given", "arrival_at": (0.0, 0.5, 0.5, 0.5)}
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "gone before it comes": ({**GIVEN, "retirement_at": (None, 0.4, None, None)}, ["env.retirement_at", "40", "50"]),
    "gone as it comes": ({**GIVEN, "retirement_at": (0.0, None, None, None)}, ["env.retirement_at", "round 0"]),
    "too few arrivals": ({"arrivals": "given", "arrival_at": (0.0,)}, ["env.arrival_at", "1", "4"]),
    "no arrivals": ({"arrivals": "given"}, ["env.arrival_at", "0", "4"]),
    "too many ends": ({**GIVEN, "retirement_at": (None,) * 5}, ["env.retirement_at", "5", "4"]),
    "two kinds of end": ({**GIVEN, "lifetime": 0.5}, ["env.lifetime", "env.retirement_at"]),
    "nobody at first": ({"arrivals": "given", "arrival_at": (0.1, 0.2, 0.3, 0.4)}, ["env.arrival_at", "round 0"]),
    "too many at first": ({"arrivals": "even", "initial_models": 5}, ["env.initial_models is 5", "4"]),
    "none at first": ({"arrivals": "poisson", "initial_models": 0}, ["env.initial_models is 0", "4"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_schedule_that_does_not_fit_is_refused(case: str) -> None:
    overrides, words = REFUSED[case]
    with pytest.raises(InputError) as error:
        built(4, 100, **overrides)
    one_sentence(error, *words)


def test_the_model_that_retires_too_early_is_named() -> None:
    models = catalogue_with([0.0, 100.0, 100.0], [-50.0, np.nan, np.nan])
    with pytest.raises(InputError) as error:
        built(models, arrivals="catalogue")
    one_sentence(error, "model-0", "round 0", "catalogue")


def test_a_missing_release_date_is_named() -> None:
    with pytest.raises(InputError) as error:
        built(catalogue_with([0.0, np.nan, 5.0]), arrivals="catalogue")
    one_sentence(error, "env.arrivals", "release date", "model-1")
    assert len(arrivals(catalogue_with([0.0, np.nan, 5.0]), arrivals="even")) == 3  # no other pattern needs it


def with_throughput(values: Any) -> Catalogue:
    found = worlds.catalogue(4)
    return replace(found, extras={**found.extras, "throughput": np.asarray(values)})


SETTINGS_REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "more than there are": ({"max_deployed": 5}, ["env.max_deployed is 5", "4"]),
    "caps too small": (
        {"max_deployed": 2, "edge_throughput": 0.4, "cloud_throughput": 0.4},
        ["env.max_deployed=2", "0.8", "env.edge_throughput", "env.cloud_throughput"],
    ),
    "more stages than rounds": ({"stages": 201}, ["env.stages is 201", "200"]),
    "a cost without a budget": (
        {"deployment_cost_usd": 0.1, "budget_per_task": None},
        ["env.deployment_cost_usd", "env.budget_per_task"],
    ),
    "no throughput": ({"models": with_throughput([0.0, 0.5, 0.5, 0.5])}, ["'throughput'", "(0, 1]"]),
    "too much throughput": ({"models": with_throughput([0.5, 1.5, 0.5, 0.5])}, ["'throughput'", "(0, 1]"]),
    "throughput in words": ({"models": with_throughput(["a", "b", "c", "d"])}, ["'throughput'", "(0, 1]"]),
    "throughput that is not a number": (
        {"models": with_throughput([0.5, np.nan, 0.5, 0.5])},
        ["'throughput'", "(0, 1]"],
    ),
}


@pytest.mark.parametrize("case", SETTINGS_REFUSED)
def test_settings_that_do_not_fit_are_refused(case: str) -> None:
    overrides, words = SETTINGS_REFUSED[case]
    with pytest.raises(InputError) as error:
        worlds.instance(**overrides)
    one_sentence(error, *words)


@pytest.mark.parametrize(
    ("kind", "number", "first", "gap"), [("stairs", 5, 0.3, 0.2), ("needle", 3, 0.9, 0.2), ("stairs", 2, 0.5, -0.6)]
)
def test_a_made_up_catalogue_outside_the_unit_interval_is_refused(
    kind: str, number: int, first: float, gap: float
) -> None:
    with pytest.raises(InputError) as error:
        catalogues.generated(kind, number, first, gap)
    one_sentence(error, "first_quality", "quality_gap", "[0, 1]")


# What a staged world is made of.
def test_made_up_catalogues_by_hand() -> None:
    stairs = catalogues.generated("stairs", 4, 0.25, 0.25)
    needle = catalogues.generated("needle", 3, 0.5, 0.5)
    assert stairs.quality.tolist() == [0.25, 0.5, 0.75, 1.0] and needle.quality.tolist() == [0.5, 0.5, 1.0]
    for made in (stairs, needle):
        number = made.num_models
        assert len(set(made.names)) == number and made.tier_cloud.all()
        for name in ("cost_usd", "cost_cv", "latency_s", "latency_cv"):
            assert getattr(made, name).shape == (number,) and np.ptp(getattr(made, name)) == 0
    assert catalogues.generated("stairs", 1, 1.0, 0.9).quality.tolist() == [1.0]


def test_a_throughput_column_comes_before_the_tiers() -> None:
    found = worlds.world(models=with_throughput([0.1, 0.9, 1.0, 0.5]), padded=5)
    np.testing.assert_allclose(found.problem.throughput, [0.1, 0.9, 1.0, 0.5, 1.0])
    tiers = worlds.world(edge_throughput=0.3, cloud_throughput=0.8)
    np.testing.assert_allclose(tiers.problem.throughput, [0.3, 0.8, 0.3, 0.3])


def test_stages_are_given_or_a_power_of_the_horizon() -> None:
    assert worlds.instance(horizon=1000, stages=None).stages == 10
    assert worlds.instance(horizon=1000, stages=None, stage_exponent=0.5).stages == 32
    assert worlds.instance(horizon=1000, stages=None, stage_exponent=0.0).stages == 1
    assert worlds.instance(horizon=1000, stages=None, stage_exponent=1.0).stages == 1000
    assert worlds.instance(horizon=200, stages=200).stages == 200


@pytest.mark.parametrize(
    ("overrides", "deployment_matters"),
    [
        ({}, False),
        ({"max_deployed": 4}, False),
        ({"stages": 7}, False),
        ({"max_deployed": 3}, True),
        ({"arrivals": "even"}, True),
        ({"lifetime": 0.5}, True),
        ({"lifetime": 1.0}, False),
        ({"deployment_cost_usd": 1e-6}, True),
        ({"padded": 6}, False),
    ],
)
def test_only_what_can_change_is_tracked(overrides: dict[str, Any], deployment_matters: bool) -> None:
    assert worlds.world(**overrides).deployment_matters == deployment_matters


def test_the_cost_of_a_deployment_is_rounded_up_to_a_quantum_and_charged_to_money_alone() -> None:
    cost = 1.23e-4
    made = worlds.instance(deployment_cost_usd=cost, **worlds.TWO_OF_EACH)
    cost_of_one = ledger.host_units(made.world.deployment_cost).tolist()
    quanta = ledger.quanta(made.world.deployment_cost, made.world.consumption_scale)
    exact = Fraction(cost) / Fraction(made.unit[0]) * Fraction(quanta[0])
    assert made.resources[0] == "money"
    assert cost_of_one == [ceil(exact), 0]
