"""The random numbers of a round: uniform, independent between numbers, rounds and runs, and apart from folded keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs.keys import uniforms

ROUNDS, RUNS, NUMBERS = 400, 50, 5
FALSE_ALARM = 1e-4


def drawn(dtype: str = "float32", numbers: int = NUMBERS) -> np.ndarray:
    """[runs, rounds, numbers]."""
    keys = jax.random.split(jax.random.key(3), RUNS)
    rounds = jnp.arange(ROUNDS, dtype=jnp.int32)

    def one(key: jax.Array, t: jax.Array) -> jax.Array:
        return uniforms(key, t, numbers, jnp.dtype(dtype))

    made = jax.vmap(one)(jnp.repeat(keys, ROUNDS), jnp.tile(rounds, RUNS))
    return np.asarray(made).reshape(RUNS, ROUNDS, numbers)


def test_uniform_and_uncorrelated() -> None:
    made = drawn()
    assert made.min() >= 0 and made.max() < 1
    assert stats.kstest(made.ravel(), "uniform").pvalue > FALSE_ALARM
    shifted = [made[:, :, :-1] - 0.5, made[:, :-1] - 0.5, made[:-1] - 0.5]
    others = [made[:, :, 1:] - 0.5, made[:, 1:] - 0.5, made[1:] - 0.5]
    for one, other in zip(shifted, others, strict=True):  # next number, next round, next run
        assert abs((one * other).mean() * 12 * np.sqrt(one.size)) < stats.norm.isf(FALSE_ALARM / 2)


def test_all_different_and_on_the_grid() -> None:
    made = drawn().ravel().astype(float) * 2**24
    assert (made == np.round(made)).all()
    assert len(np.unique(made)) > 0.99 * made.size  # of 100,000 in 16.7 million some 300 meet


def test_the_first_numbers_do_not_depend_on_how_many_are_drawn_after_a_pair() -> None:
    """An odd number is one word fewer of the same pairs."""
    np.testing.assert_array_equal(drawn(numbers=3), drawn(numbers=4)[..., :3])


def test_double_precision_fills_53_bits() -> None:
    with jax.enable_x64(True):
        made = drawn("float64").ravel() * 2.0**53
    assert (made == np.round(made)).all() and (made % 2 == 1).mean() == pytest.approx(0.5, abs=0.01)
    assert stats.kstest(made / 2.0**53, "uniform").pvalue > FALSE_ALARM


def test_apart_from_keys_folded_for_other_purposes() -> None:
    """No word of a round is one of those that ``fold_in`` and ``split`` give for small numbers."""
    key = jax.random.key(9)
    folded = [jax.random.key_data(jax.random.fold_in(key, number)) for number in range(200)]
    split = jax.random.key_data(jax.random.split(key, 200))
    words = np.concatenate([*map(np.asarray, folded), np.ravel(split)])
    ours = [uniforms(key, jnp.int32(t), 4, jnp.dtype("float32")) for t in range(50)]
    assert not np.isin(np.concatenate(list(map(np.asarray, ours))), (words >> 8) * 2.0**-24).any()
