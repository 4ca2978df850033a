"""Running totals and the hard-budget guard against Python's integers and fractions."""

from fractions import Fraction
from math import ceil, floor, log2

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import ledger

pytestmark = pytest.mark.optimized  # what is exact must be so whatever the compiler does

BASE = 2**29
MOST = 2 * BASE**5  # quanta of consumption: what the highest digit can hold, and a bit to spare
EDGE = st.sampled_from([0, 1, BASE - 1, BASE, BASE + 1, BASE**2 - 1, BASE**3, BASE**5 - 1, BASE**5, MOST - 1, MOST])


def _normal(amount: np.float32) -> float:
    """What is smaller than a dtype's normal numbers is 0 to XLA."""
    return float(amount) if amount >= np.finfo(np.float32).tiny else 0.0


UNITS = st.one_of(EDGE, st.integers(0, MOST), st.integers(0, 144).flatmap(lambda bits: st.integers(0, 2**bits)))
AMOUNTS = st.floats(0, 1, width=32, allow_subnormal=False).flatmap(
    lambda share: st.integers(-60, 28).map(lambda exponent: _normal(np.float32(share) * np.float32(2.0) ** exponent))
)

add, left, at_most = jax.jit(ledger.add), jax.jit(ledger.left), jax.jit(ledger.at_most)
charge, record = jax.jit(ledger.charge), jax.jit(ledger.record)
value, value_below = jax.jit(ledger.value), jax.jit(ledger.value_below)


def total(*units: int, digits: int = 5) -> ledger.Total:
    """Of host integers [N], each digit as small as can be."""
    places = [[u // BASE**j % BASE if j < digits - 1 else u // BASE**j for u in units] for j in range(digits)]
    return ledger.Total(digits=tuple(np.array(place, np.int32) for place in places))


def units(found: ledger.Total) -> list[int]:
    return np.ravel(ledger.host_units(found)).tolist()


def exactly(amount: float, scale: float, digits: int) -> Fraction:
    """An amount in quanta."""
    return Fraction(amount) * Fraction(scale) * BASE ** (digits - 1)


# Amounts.
@settings(max_examples=300, deadline=None)
@given(amount=AMOUNTS, exponent=st.integers(-30, 0))
def test_a_charge_is_rounded_up_to_a_quantum_and_nothing_else(amount: float, exponent: int) -> None:
    scale = 2.0**exponent
    made = units(charge(np.float32(amount), np.float32(scale)))
    assert made == [ceil(exactly(amount, scale, 5))]
    (recorded,) = units(record(np.float32(amount), np.float32(scale)))
    assert abs(recorded - exactly(amount, scale, 3)) <= Fraction(1, 2)


def test_the_charge_of_a_worst_case_is_never_below_a_charge() -> None:
    generator = np.random.default_rng(0)
    demand = generator.integers(0, 47, 100_000).astype(np.float32)
    bound = (10.0 ** generator.uniform(-20, 0, 100_000)).astype(np.float32)
    consumption = np.minimum(bound * generator.choice([1.0, 1 - 2**-24, 0.5, 1e-3], 100_000).astype(np.float32), bound)
    scale = np.float32(ledger.scale(47 * 1e6))
    low, high = (ledger.host_units(charge(demand * amount, scale)) for amount in (consumption, bound))
    assert (low <= high).all() and (low < high).any()


# Sums.
@settings(max_examples=300, deadline=None)
@given(st.lists(UNITS, min_size=1, max_size=12))
def test_add_is_integer_addition_however_often(amounts: list[int]) -> None:
    amounts = [amount // len(amounts) for amount in amounts]
    running = total(0)
    for amount in amounts:
        running = add(running, total(amount))
    assert units(running) == [sum(amounts)]
    assert all((0 <= int(digit[0]) < 2**31 - 2**10) for digit in running.digits[:-1])


@pytest.mark.parametrize("amount", [1, BASE - 1, BASE, BASE + 1, BASE**2 - 1, BASE**4 - 1, BASE**4 + BASE**2 + 1])
@pytest.mark.parametrize("start", [0, BASE - 5, BASE**2 - 1, BASE**5 // 2 - 1])
def test_long_sums_carry_exactly(start: int, amount: int) -> None:
    each = jax.tree.map(jnp.asarray, total(amount))
    summed = jax.lax.fori_loop(0, 64, lambda _, running: ledger.add(running, each), total(start))
    assert units(summed) == [start + 64 * amount]


def redundant(amount: int) -> ledger.Total:
    """The same sum with digits as large as they come to be: each holds what it will hand on."""
    return add(total(amount - amount // 2), total(amount // 2))


@settings(max_examples=300, deadline=None)
@given(spent=UNITS, offset=st.one_of(st.integers(-2, 2), st.integers(-(2**70), 2**70)))
def test_what_is_left_is_exact_at_the_boundary(spent: int, offset: int) -> None:
    budget = min(max(spent + offset, 0), MOST)
    for made in (total(spent), redundant(spent)):
        assert units(left(made, total(budget))) == [max(budget - spent, 0)]
        assert at_most(made, total(budget)).tolist() == [spent <= budget]


@settings(max_examples=300, deadline=None)
@given(amounts=st.lists(st.floats(0, 50, width=32), min_size=1, max_size=40))
def test_the_coarse_part_of_amounts_adds_up_to_the_coarse_part_of_their_sum(amounts: list[float]) -> None:
    fine, coarse, scale = total(0, digits=3), total(0, digits=2), np.float32(2.0**-20)
    for amount in amounts:
        made = record(np.float32([amount]), scale)
        coarse = add(coarse, ledger.highest(fine, made))
        fine = add(fine, made)
    assert units(coarse) == units(ledger.Total(digits=fine.digits[1:]))
    assert 0 <= units(fine)[0] - units(coarse)[0] * BASE < 4 * BASE


# Reading.
@settings(max_examples=300, deadline=None)
@given(held=UNITS)
@pytest.mark.parametrize(("dtype", "bits"), [(np.float32, 24), (np.float64, 53)])
def test_a_total_is_read_rounded_down_or_within_a_few_roundings(held: int, dtype: type, bits: int) -> None:
    with jax.enable_x64(dtype == np.float64):
        scale = dtype(2.0**-3)
        low, near = (float(read(total(held), scale)[0]) for read in (value_below, value))
        host = float(ledger.host_value(total(held), scale)[0])
    cut = max(held.bit_length() - bits, 0)
    quantum = Fraction(1, BASE**4) * 8
    assert Fraction(low) == (held >> cut << cut) * quantum
    assert abs(Fraction(near) - held * quantum) <= Fraction(4, 2**bits) * held * quantum
    assert abs(Fraction(host) - held * quantum) <= Fraction(4, 2**53) * held * quantum


@settings(max_examples=300, deadline=None)
@given(budget=UNITS, share=st.floats(0, 1.001), steps=st.integers(-2, 2))
def test_an_amount_is_accepted_if_and_only_if_its_charge_fits(budget: int, share: float, steps: int) -> None:
    """The world compares floating-point numbers; it must say what integers say."""
    scale = np.float32(2.0**-3)
    rest = value_below(total(budget), scale)
    amount = np.float32(share) * np.asarray(rest)
    for _ in range(abs(steps)):
        amount = np.nextafter(amount, np.float32(np.inf if steps > 0 else 0))
    amount = np.where(amount < 1e-37, np.float32(0), amount)  # what is below is 0 on a CPU
    assert (amount <= rest).tolist() == [units(charge(amount, scale))[0] <= budget]


# Scales and budgets.
@pytest.mark.parametrize("maximum", [0.3, 1.0, 1.5, 47.0, 2.0**24, 1e9])
@pytest.mark.parametrize("horizon", [1, 1000, 5 * 10**8])
def test_the_largest_sum_fits_and_the_smallest_amount_counts(maximum: float, horizon: int) -> None:
    largest = maximum * horizon
    scale = ledger.scale(largest)
    assert log2(scale) % 1 == 0 and largest * scale < 2**30
    digits = [int(digit) for digit in charge(np.float32(maximum), np.float32(scale)).digits]
    assert horizon * digits[-1] < 2**30
    dear_and_cheap = np.array([1.0, 1e-12], np.float32)
    made = ledger.host_units(charge(dear_and_cheap, np.float32(scale)))
    for amount, found in zip(dear_and_cheap, made, strict=True):
        wanted = exactly(float(amount), scale, 5)
        assert 0 <= found - wanted <= Fraction(1, 10**9) * wanted
    tasks = ledger.host_units(record(np.float32(0.01), np.float32(scale)))
    assert tasks == pytest.approx(float(exactly(float(np.float32(0.01)), scale, 3)), rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(budget=st.floats(0, 1e9), unit=st.floats(1e-12, 1e3), fee=st.floats(0, 1e6), exponent=st.integers(-30, 0))
def test_budgets_are_rounded_down_and_fees_up_exactly(budget: float, unit: float, fee: float, exponent: int) -> None:
    scale = np.array([2.0**exponent])
    amounts = [Fraction(amount) / Fraction(unit) for amount in (budget, fee)]
    quanta = [amount * Fraction(scale[0]) * BASE**4 for amount in amounts]
    assert units(ledger.limit(amounts[:1], scale)) == [min(floor(quanta[0]), MOST)]
    assert units(ledger.fee(amounts[1:], scale)) == [min(ceil(quanta[1]), MOST)]


def test_ten_million_rounds_are_exact_where_float32_is_not() -> None:
    """Amounts come from a 32-bit counter through a multiplicative hash, so the same numbers are made on both sides."""
    rounds, scale = 10**7, np.float32(ledger.scale(20.0 * 10**7))

    def amount(t: jax.Array) -> jax.Array:
        return ((t * jnp.uint32(2654435761)) >> 8).astype(jnp.float32) * 2.0**-24 * 20.0

    @jax.jit
    def run() -> tuple[ledger.Total, jax.Array]:
        def body(t: jax.Array, carry: tuple[ledger.Total, jax.Array]) -> tuple[ledger.Total, jax.Array]:
            each = amount(t.astype(jnp.uint32))
            return ledger.add(carry[0], ledger.record(each, scale)), carry[1] + each

        return jax.lax.fori_loop(0, rounds, body, (ledger.zero(), jnp.zeros((), jnp.float32)))

    kept, plain = run()
    t = np.arange(rounds, dtype=np.uint32)
    each = ((t * np.uint32(2654435761)) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24) * np.float32(20.0)
    reference = sum((each.astype(np.float64) * 2.0**26).astype(np.int64).tolist())
    assert int(ledger.host_units(kept)) == reference * int(scale * BASE**2 / 2**26)
    assert float(ledger.value(kept, scale)) == pytest.approx(reference / 2**26, rel=1e-6)
    assert float(plain) != pytest.approx(reference / 2**26, rel=1e-6)  # plain float32 is not good enough
