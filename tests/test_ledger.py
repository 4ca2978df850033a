"""Running totals and the hard-budget guard against Python's integers."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import ledger

TOP = 2**64 - 1
UNITS = st.integers(0, 2**31)
EDGE = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33 - 1, 2**63, TOP - 2**31, TOP])
TOTALS = st.one_of(EDGE, st.integers(0, TOP))

add, fits, left = jax.jit(ledger.add), jax.jit(ledger.fits), jax.jit(ledger.left)


def total(units: int) -> ledger.Total:
    return ledger.Total(high=jnp.asarray(units >> 32, jnp.uint32), low=jnp.asarray(units & (2**32 - 1), jnp.uint32))


def units(value: ledger.Total) -> int:
    return int(ledger.host_units(value))


@settings(max_examples=200, deadline=None)
@given(start=TOTALS, amount=UNITS)
def test_add_is_integer_addition(start: int, amount: int) -> None:
    start = min(start, TOP - amount)
    assert units(add(total(start), jnp.uint32(amount))) == start + amount


@pytest.mark.parametrize("start", [0, 2**32 - 5, 2**33 - 1])
@pytest.mark.parametrize("amount", [1, 4, 5, 6, 2**31 - 1, 2**31])
def test_long_sums_carry_exactly(start: int, amount: int) -> None:
    end = jax.lax.fori_loop(0, 64, lambda _, running: ledger.add(running, jnp.uint32(amount)), total(start))
    assert units(end) == start + 64 * amount


@settings(max_examples=300, deadline=None)
@given(spent=TOTALS, amount=UNITS, offset=st.integers(-2, 2))
def test_fits_is_exact_at_the_boundary(spent: int, amount: int, offset: int) -> None:
    spent = min(spent, TOP - amount)
    budget = min(max(spent + amount + offset, 0), TOP)
    assert bool(fits(total(spent), jnp.uint32(amount), total(budget))) == (spent + amount <= budget)


@settings(max_examples=200, deadline=None)
@given(budget=TOTALS, share=st.floats(0, 1))
def test_left_is_integer_subtraction(budget: int, share: float) -> None:
    spent = int(Fraction(share) * budget)
    assert units(left(total(spent), total(budget))) == budget - spent


@pytest.mark.parametrize("budget", [1, 2**32 - 1, 2**32, 2**32 + 1, 2**40])
def test_a_budget_can_be_spent_to_the_last_quantum_and_no_further(budget: int) -> None:
    limit, last = total(budget), total(budget - 1)
    assert bool(fits(last, jnp.uint32(1), limit)) and not bool(fits(last, jnp.uint32(2), limit))
    assert units(left(limit, limit)) == 0 and units(left(last, limit)) == 1


@settings(max_examples=200, deadline=None)
@given(budget=st.floats(0, 1e9), bits=st.integers(0, 31))
def test_limit_rounds_down_exactly(budget: float, bits: int) -> None:
    quanta = 2.0**bits
    made = units(ledger.limit(np.array(budget), quanta))
    assert made <= Fraction(budget) * int(quanta) < made + 1


def test_an_unlimited_or_enormous_budget_is_the_largest_total() -> None:
    made = ledger.limit(np.array([np.inf, 1e30, 0.0]), 2.0**26)
    assert ledger.host_units(made).tolist() == [TOP, TOP, 0]
    assert bool(fits(total(2**60), jnp.uint32(2**31), jax.tree.map(lambda limb: limb[0], made)))


def test_a_round_of_the_largest_demand_fits_in_31_bits() -> None:
    for maximum in (0.3, 1.0, 1.5, 2.0, 20.0, 47.0, 2.0**24, 3e7):
        quanta = ledger.quanta_per_task(maximum)
        assert np.log2(quanta) % 1 == 0 and max(maximum, 1.0) * quanta <= 2**31


def test_charges_round_up_and_never_exceed_the_charge_of_the_worst_case() -> None:
    generator = np.random.default_rng(0)
    demand = generator.integers(0, 47, 200_000).astype(np.float32)
    bound = generator.random(200_000, np.float32) ** 4
    consumption = np.minimum(bound * generator.choice([1.0, 1 - 2**-24, 0.5, 1e-3], 200_000).astype(np.float32), bound)
    quanta = ledger.quanta_per_task(46)
    charge = np.asarray(ledger.charge_quanta(jnp.asarray(demand * consumption), jnp.float32(quanta)))
    worst = np.asarray(ledger.charge_quanta(jnp.asarray(demand * bound), jnp.float32(quanta)))
    exact = (demand * consumption).astype(np.float64) * quanta
    assert (charge <= worst).all()
    assert (charge >= exact).all() and (charge < exact + 1).all()


def test_recorded_amounts_are_rounded_to_nearest() -> None:
    amount = jnp.asarray([0.0, 0.3, 1.0, 46.0], jnp.float32)
    made = np.asarray(ledger.to_quanta(amount, jnp.float32(2.0**25)))
    np.testing.assert_array_equal(made, np.rint(np.asarray(amount, np.float64) * 2**25))


def test_ten_million_rounds_agree_with_float64_to_a_millionth() -> None:
    """Amounts come from a 32-bit counter through a multiplicative hash, so the same numbers are made on both sides."""
    rounds, quanta = 10**7, 2.0**26

    def amount(t: jax.Array) -> jax.Array:
        return ((t * jnp.uint32(2654435761)) >> 8).astype(jnp.float32) * 2.0**-24 * 20.0

    @jax.jit
    def run() -> tuple[ledger.Total, jax.Array]:
        def body(t: jax.Array, carry: tuple[ledger.Total, jax.Array]) -> tuple[ledger.Total, jax.Array]:
            each = amount(t.astype(jnp.uint32))
            return ledger.add(carry[0], ledger.to_quanta(each, jnp.float32(quanta))), carry[1] + each

        return jax.lax.fori_loop(0, rounds, body, (ledger.zero(), jnp.zeros((), jnp.float32)))

    kept, plain = run()
    t = np.arange(rounds, dtype=np.uint32)
    each = ((t * np.uint32(2654435761)) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24) * np.float32(20.0)
    reference = each.sum(dtype=np.float64)
    assert float(ledger.host_value(kept, np.float32(quanta))) == pytest.approx(reference, rel=1e-9)
    assert float(ledger.value(kept, jnp.float32(quanta))) == pytest.approx(reference, rel=1e-6)
    assert float(plain) != pytest.approx(reference, rel=1e-6)  # plain float32 is not good enough: the test can fail
