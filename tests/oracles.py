"""Second opinions in plain NumPy and float64, written from the algorithms' equations and not from the engine's code.

Letters as in the equations: r reward, c consumption, g service; [M], [M, P], [M, C]. Nothing here imports JAX.
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from scipy import sparse
from scipy.integrate import quad
from scipy.optimize import Bounds, LinearConstraint, brentq, linprog, milp
from scipy.stats import gamma as gamma_law
from scipy.stats import lognorm

TIGHT = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}


# Confidence.
def level(confidence: float, num_models: int, horizon: int) -> float:
    """gamma = confidence log(3 M T)."""
    return confidence * np.log(3 * num_models * horizon)


def bounds(
    samples: list[np.ndarray], ceiling: np.ndarray, gamma: float, kappa: float = 1.0, radius: str = "mean"
) -> tuple[np.ndarray, np.ndarray]:
    """(LCB, UCB) [M, D] from each model's samples [n_m, D]; quantities are divided by their range [M, D] first."""
    lower, upper = np.zeros_like(ceiling), ceiling.astype(float).copy()
    for m, rows in enumerate(samples):
        if len(rows) == 0:
            continue
        for d in range(ceiling.shape[1]):
            scaled = np.asarray(rows)[:, d] / ceiling[m, d]
            spread = scaled.mean() if radius == "mean" else scaled.var()
            width = kappa * (np.sqrt(gamma * spread / len(rows)) + gamma / len(rows))
            lower[m, d] = ceiling[m, d] * max(scaled.mean() - width, 0.0)
            upper[m, d] = ceiling[m, d] * min(scaled.mean() + width, 1.0)
    return lower, upper


@dataclass
class Beliefs:
    """What a policy knows of each model: samples are kept whole, so nothing is updated incrementally."""

    ceiling: np.ndarray  # [M, D]
    samples: list[list[np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.samples = [[] for _ in self.ceiling]

    def see(self, served: np.ndarray, outcome: np.ndarray) -> None:
        """served [M], outcome [M, D]."""
        for m in np.flatnonzero(served > 0):
            self.samples[m].append(outcome[m])

    def count(self) -> np.ndarray:
        return np.array([len(rows) for rows in self.samples])

    def mean(self) -> np.ndarray:
        blank = np.zeros(self.ceiling.shape[1])
        return np.array([np.mean(rows, axis=0) if rows else blank for rows in self.samples])


# Choosing.
def fill_by_linprog(index: np.ndarray, caps: np.ndarray) -> float:
    """max index·x over 0 <= x <= caps, sum x <= 1."""
    solved = linprog(-index, A_ub=np.ones((1, len(index))), b_ub=[1.0], bounds=np.stack([np.zeros_like(caps), caps], 1))
    return -solved.fun


def greedy_fill(index: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """The maximiser that serves better models first, and the lower number first among equals."""
    shares, room = np.zeros(len(index)), 1.0
    for m in sorted(range(len(index)), key=lambda m: (-index[m], m)):
        if index[m] > 0 and caps[m] > 0:
            shares[m] = min(caps[m], room)
            room -= shares[m]
    return shares


def affordable_caps(caps: np.ndarray, bound: np.ndarray, remaining: np.ndarray, demand: float) -> np.ndarray:
    """[M] caps without the models whose worst case [M, P] for the whole round no longer fits in what remains [P]."""
    return np.where((demand * bound <= remaining).all(axis=1), caps, 0.0)


def exploration(count: np.ndarray, caps: np.ndarray) -> np.ndarray | None:
    """Each available model is tried once first, in order; None once all were."""
    for m in range(len(caps)):
        if caps[m] > 0 and count[m] == 0:
            return np.where(np.arange(len(caps)) == m, caps, 0.0)
    return None


def resolving_targets(
    budget: np.ndarray, spent: np.ndarray, target: np.ndarray, service: np.ndarray, so_far: float, remaining: float
) -> tuple[np.ndarray, np.ndarray]:
    """rho = (B - spent) / R and g* = clip((target Q - service) / R, 0, 1) with Q = so far + R."""
    wanted = (target * (so_far + remaining) - service) / remaining
    return (budget - spent) / remaining, np.clip(wanted, 0.0, 1.0)


def static_targets(budget: np.ndarray, target: np.ndarray, total: float) -> tuple[np.ndarray, np.ndarray]:
    """rho = B / Q and g* = target."""
    return budget / total, target


# Rules.
def uniform(caps: np.ndarray) -> np.ndarray:
    return np.where(caps > 0, np.minimum(1 / max((caps > 0).sum(), 1), caps), 0.0)


def ucb1_index(mean_reward: np.ndarray, count: np.ndarray, t: int, width: float = 2.0) -> np.ndarray:
    """Mean + sqrt(width log t / n); t rounds were played."""
    return mean_reward + np.sqrt(width * np.log(max(t, 1)) / np.maximum(count, 1))


def value_per_cost(
    mean_reward: np.ndarray, mean_cost: np.ndarray, budget: np.ndarray, floor: float = 1e-6
) -> np.ndarray:
    """(Reward + floor) / max(cost, floor) where the cost is that of the scarcest resource, in its units."""
    if len(budget) == 0:
        return (mean_reward + floor) / floor
    cost = np.max(mean_cost / budget, axis=1) * budget.min()
    return (mean_reward + floor) / np.maximum(cost, floor)


def best_fixed(
    r: np.ndarray, c: np.ndarray, g: np.ndarray, rho: np.ndarray, target: np.ndarray, caps: np.ndarray
) -> np.ndarray:
    """All to the model of most reward among those that keep every constraint at their cap; else to the least wrong."""
    best, choice = (-np.inf, -np.inf), 0
    for m in range(len(r)):
        if caps[m] == 0:
            continue
        over = max([caps[m] * c[m, i] / rho[i] - 1 for i in range(len(rho))], default=0.0)
        under = max([target[j] - caps[m] * g[m, j] for j in range(len(target))], default=0.0)
        miss = max(over, under, 0.0)
        score = (-miss if miss > 1e-6 else 0.0, caps[m] * r[m])
        if score > best:
            best, choice = score, m
    return np.where(np.arange(len(r)) == choice, caps, 0.0)


def soft_rows(c: np.ndarray, g: np.ndarray, rho: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A_ub and b_ub of: c·x <= rho, g·x + z >= wanted, sum x <= 1, in the variables (x, z)."""
    models, metrics = g.shape
    spend = np.hstack([c.T, np.zeros((len(rho), metrics))])
    serve = np.hstack([-g.T, -np.eye(metrics)])
    mass = np.hstack([np.ones((1, models)), np.zeros((1, metrics))])
    return np.vstack([spend, serve, mass]), np.concatenate([rho, -wanted, [1.0]])


def soft_value(x: np.ndarray, r: np.ndarray, g: np.ndarray, wanted: np.ndarray, penalty: float = 5.0) -> float:
    """r·x - penalty · what is missing to the targets."""
    return float(r @ x - penalty * np.maximum(wanted - g.T @ x, 0).sum())


def soft_mix(
    r: np.ndarray,
    c: np.ndarray,
    g: np.ndarray,
    rho: np.ndarray,
    wanted: np.ndarray,
    caps: np.ndarray,
    penalty: float = 5.0,
) -> tuple[float, np.ndarray]:
    """(value, x): max r·x - penalty Σ z under ``soft_rows``, 0 <= x <= caps, z >= 0."""
    rows, right = soft_rows(c, g, rho, wanted)
    cost = np.concatenate([-r, np.full(len(wanted), penalty)])
    box = [(0.0, cap) for cap in caps] + [(0.0, None)] * len(wanted)
    solved = linprog(cost, A_ub=rows, b_ub=right, bounds=box, options=TIGHT)
    assert solved.status == 0, solved.message
    return -solved.fun, solved.x[: len(r)]


def hard_mix(
    r: np.ndarray, c: np.ndarray, g: np.ndarray, rho: np.ndarray, target: np.ndarray, caps: np.ndarray
) -> float | None:
    """V(b): max r·x s.t. c·x <= rho, g·x >= target, 0 <= x <= caps, sum x <= 1; None where nothing satisfies it."""
    rows = np.vstack([c.T, -g.T, np.ones((1, len(r)))])
    right = np.concatenate([rho, -target, [1.0]])
    solved = linprog(-r, A_ub=rows, b_ub=right, bounds=[(0.0, cap) for cap in caps], options=TIGHT)
    return -solved.fun if solved.status == 0 else None


def primal_dual_index(
    upper_r: np.ndarray, lower_c: np.ndarray, g: np.ndarray, packing: np.ndarray, covering: np.ndarray
) -> np.ndarray:
    """UCB_r - Σ λ LCB_c + Σ ν UCB_g."""
    return upper_r - lower_c @ packing + g @ covering


@dataclass
class Prices:
    """λ and ν of primal_dual_resolving under plain gradient steps."""

    packing: np.ndarray  # [P] λ
    covering: np.ndarray  # [C] ν
    demands: list[float] = field(default_factory=list)

    def step(
        self,
        q: float,
        c: np.ndarray,
        g: np.ndarray,
        rho: np.ndarray,
        wanted: np.ndarray,
        rate: float,
        gain: float = 3.0,
        cap: float = 5.0,
    ) -> None:
        """λ <- clip(λ + rate w (c/ρ - 1)/ρ, 0, 1/ρ), ν <- clip(ν + gain rate w (g* - g), 0, cap), w = q / mean q."""
        self.demands.append(q)
        weight = q / np.mean(self.demands) if np.mean(self.demands) > 0 else 0.0
        self.packing = np.clip(self.packing + rate * weight * (c / rho - 1) / rho, 0, 1 / rho)
        self.covering = np.clip(self.covering + gain * rate * weight * (wanted - g), 0, cap)


# The world, from a catalogue's columns.
def met_probability(latency: np.ndarray, cv: np.ndarray, network: np.ndarray, slo: float) -> np.ndarray:
    """P(latency + network <= slo), latency log-normal with this mean and coefficient of variation."""
    sigma = np.sqrt(np.log(1 + cv**2))
    return np.array(
        [
            lognorm.cdf(slo - delay, s=spread, scale=np.exp(np.log(mean) - spread**2 / 2))
            for mean, spread, delay in zip(latency, sigma, network, strict=True)
        ]
    )


@dataclass(frozen=True, kw_only=True)
class World:
    """One money budget and one latency target; costs in units of the dearest model's worst case."""

    reward: np.ndarray  # [M]
    cost: np.ndarray  # [M] mean
    cost_cv: np.ndarray  # [M]
    bound: np.ndarray  # [M]
    service: np.ndarray  # [M]
    caps: np.ndarray  # [M]
    budget: float
    target: float
    mean_demand: float
    horizon: int


@dataclass(frozen=True, kw_only=True)
class Totals:
    """[R] each."""

    demand: np.ndarray
    reward: np.ndarray
    spent: np.ndarray
    service: np.ndarray


def parent_mean(mean: float, cv: float, bound: float) -> float:
    """The mean of the Gamma whose minimum with ``bound`` has this mean; E min(X, b) is the survival function's area."""

    def missing(log: float) -> float:
        law = gamma_law(1 / cv**2, scale=np.exp(log) * cv**2)
        return quad(law.sf, 0.0, bound, limit=200)[0] / mean - 1

    return float(np.exp(brentq(missing, np.log(mean) - 1e-6, np.log(100 * bound))))


def simulate(world: World, rule: str, runs: int, seed: int, confidence: float = 0.25, eta: float = 0.3) -> Totals:
    """``runs`` whole runs of lp_resolving or primal_dual_resolving with the running mean as forecaster."""
    generator = np.random.default_rng(seed)
    models, everyone = len(world.reward), np.arange(runs)
    count, total = np.zeros((runs, models)), np.zeros((runs, models, 3))
    demand, reward, spent, service = (np.zeros(runs) for _ in range(4))
    packing, covering = np.zeros(runs), np.zeros(runs)
    parents = np.array([parent_mean(*row) for row in zip(world.cost, world.cost_cv, world.bound, strict=True)])
    ceiling = np.stack([np.ones(models), world.bound, np.ones(models)], axis=1)
    gamma = level(confidence, models, world.horizon)
    for t in range(world.horizon):
        q = generator.poisson(world.mean_demand, runs).astype(float)
        expected = demand / t if t else np.full(runs, world.mean_demand)
        to_come = np.maximum(q + expected * (world.horizon - t - 1), 1e-9)
        rho = np.maximum(world.budget - spent, 0.0) / to_come
        wanted = np.clip((world.target * (demand + to_come) - service) / to_come, 0, 1)
        upper_r, lower_c, upper_g = _bounds_of_runs(count, total, ceiling, gamma)
        caps = np.where(q[:, None] * world.bound <= (world.budget - spent)[:, None], world.caps, 0.0)
        if rule == "lp_resolving":
            shares = _block_mix(upper_r, lower_c, upper_g, rho, wanted, caps)
        else:
            index = upper_r - packing[:, None] * lower_c + covering[:, None] * upper_g
            shares = np.array([greedy_fill(row, allowed) for row, allowed in zip(index, caps, strict=True)])
        first = [exploration(row, allowed) for row, allowed in zip(count, caps, strict=True)]
        shares = np.array([row if trial is None else trial for row, trial in zip(shares, first, strict=True)])
        model = (generator.random(runs)[:, None] >= np.cumsum(shares, axis=1)).sum(axis=1)
        drawn = np.minimum(model, models - 1)
        serves = (model < models) & (spent + q * world.bound[drawn] <= world.budget) & (q > 0)
        shape = 1 / world.cost_cv[drawn] ** 2
        outcome = (
            np.stack(
                [
                    generator.random(runs) < world.reward[drawn],
                    np.minimum(generator.gamma(shape, parents[drawn] / shape), world.bound[drawn]),
                    generator.random(runs) < world.service[drawn],
                ],
                axis=1,
            )
            * serves[:, None]
        )
        count[everyone, drawn] += serves
        total[everyone, drawn] += outcome
        weight = q * (t + 1) / np.maximum(demand + q, 1e-9)
        rate = eta / np.sqrt(world.horizon)
        safe = np.maximum(rho, 1e-9)
        packing = np.clip(packing + rate * weight * (outcome[:, 1] / safe - 1) / safe, 0, 1 / safe)
        covering = np.clip(covering + 3 * rate * weight * (wanted - outcome[:, 2]), 0, 5)
        demand, reward = demand + q, reward + q * outcome[:, 0]
        spent, service = spent + q * outcome[:, 1], service + q * outcome[:, 2]
    return Totals(demand=demand, reward=reward, spent=spent, service=service)


def _bounds_of_runs(
    count: np.ndarray, total: np.ndarray, ceiling: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UCB of reward, LCB of cost, UCB of service, [R, M] each."""
    n = np.maximum(count, 1)[:, :, None]
    mean = total / n
    width = ceiling * (np.sqrt(gamma * mean / ceiling / n) + gamma / n)
    tried = count[:, :, None] > 0
    upper = np.where(tried, np.minimum(mean + width, ceiling), ceiling)
    lower = np.where(tried, np.maximum(mean - width, 0), 0.0)
    return upper[:, :, 0], lower[:, :, 1], upper[:, :, 2]


def _block_mix(
    r: np.ndarray, c: np.ndarray, g: np.ndarray, rho: np.ndarray, wanted: np.ndarray, caps: np.ndarray
) -> np.ndarray:
    """``soft_mix`` of many runs as one block-diagonal program: one call costs as much as fifty single ones."""
    runs, models = r.shape
    wanted = np.minimum(wanted, np.where(caps > 0, g, 0.0).max(axis=1))
    blocks, right = zip(
        *(soft_rows(c[k][:, None], g[k][:, None], rho[[k]], wanted[[k]]) for k in range(runs)), strict=True
    )
    cost = np.concatenate([-r, np.full((runs, 1), 5.0)], axis=1).ravel()
    upper = np.concatenate([caps, np.full((runs, 1), np.inf)], axis=1).ravel()
    box = np.stack([np.zeros_like(upper), upper], axis=1)
    solved = linprog(
        cost,
        A_ub=sparse.block_diag([sparse.csr_array(block) for block in blocks], format="csr"),
        b_ub=np.concatenate(right),
        bounds=box,
    )
    assert solved.status == 0, solved.message
    return solved.x.reshape(runs, models + 1)[:, :models]


# StageRoute (arXiv 2506.17254).
def deployment_rows(
    r: np.ndarray,
    c: np.ndarray,
    g: np.ndarray,
    b: np.ndarray,
    target: np.ndarray,
    caps: np.ndarray,
    slots: int,
    serve_all: bool = True,
) -> tuple[np.ndarray, list[LinearConstraint]]:
    """Eq. 3 in the variables (d, z): c·d <= b, g·d >= target, sum d = 1 (or <= 1), d <= caps z, sum z <= slots."""
    models = len(r)
    blank = np.zeros((1, models))
    rows = [
        LinearConstraint(np.hstack([np.eye(models), -np.diag(caps)]), -np.inf, 0.0),
        LinearConstraint(np.hstack([np.ones((1, models)), blank]), float(serve_all), 1.0),
        LinearConstraint(np.hstack([blank, np.ones((1, models))]), 0, slots),
    ]
    if len(b):
        rows.append(LinearConstraint(np.hstack([c.T, np.zeros((len(b), models))]), -np.inf, b))
    if len(target):
        rows.append(LinearConstraint(np.hstack([g.T, np.zeros((len(target), models))]), target, np.inf))
    return np.concatenate([-r, np.zeros(models)]), rows


def best_deployment(
    r: np.ndarray,
    c: np.ndarray,
    g: np.ndarray,
    b: np.ndarray,
    target: np.ndarray,
    caps: np.ndarray,
    slots: int,
    serve_all: bool = True,
) -> tuple[float, np.ndarray] | None:
    """(value, d) of eq. 3 by HiGHS; None where no mix keeps all rows. Models with a cap of 0 are not there."""
    cost, rows = deployment_rows(r, c, g, b, target, caps, slots, serve_all)
    models = len(r)
    solved = milp(
        cost,
        constraints=rows,
        integrality=np.arange(2 * models) >= models,
        bounds=Bounds(0.0, np.concatenate([caps, caps > 0])),
        options={"mip_rel_gap": 0.0},
    )
    assert solved.status in (0, 2), solved.message
    return (-solved.fun, solved.x[:models]) if solved.status == 0 else None


def full_mix(
    r: np.ndarray,
    c: np.ndarray,
    g: np.ndarray,
    b: np.ndarray,
    wanted: np.ndarray,
    caps: np.ndarray,
    penalty: float | None = None,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray] | None:
    """(value, p, λ [P], ν [C]): max r·p (- penalty z) s.t. c·p <= b, g·p (+ z) >= wanted, sum p = min(1, sum caps).

    Without a penalty targets are hard. None where the rows contradict each other.
    """
    elastic = penalty is not None
    rows, right = soft_rows(c, g, b, wanted)
    solved = linprog(
        np.concatenate([-r, np.full(len(wanted), penalty or 0.0)]),
        A_ub=rows[:-1] if len(rows) > 1 else None,
        b_ub=right[:-1] if len(rows) > 1 else None,
        A_eq=rows[-1:],
        b_eq=[min(1.0, caps.sum())],
        bounds=[(0.0, cap) for cap in caps] + [(0.0, None if elastic else 0.0)] * len(wanted),
        options=TIGHT,
    )
    if solved.status == 2:
        return None
    assert solved.status == 0, solved.message
    prices = -solved.ineqlin.marginals if len(rows) > 1 else np.zeros(0)
    return -solved.fun, solved.x[: len(r)], prices[: len(b)], prices[len(b) :]


def scarcest_share(c: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[M] the largest share of a resource's budget per task that a task uses."""
    return (c / b).max(axis=1, initial=0.0)


def cheapest_mix(c: np.ndarray, b: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """All demand on the models that use least of the scarcest resource, up to their caps."""
    return greedy_fill(1e6 - scarcest_share(c, b), caps)


def value_ratio(upper_r: np.ndarray, lower_c: np.ndarray, b: np.ndarray, floor: float = 1e-6) -> np.ndarray:
    """UCB_r / LCB_c with the cost as a share of the scarcest resource's budget per task."""
    return upper_r / np.maximum(scarcest_share(lower_c, b), floor)


def best_value(
    r: np.ndarray, c: np.ndarray, g: np.ndarray, b: np.ndarray, target: np.ndarray, caps: np.ndarray, slots: int
) -> float | None:
    """The staged benchmark's value of a task: the best V(b, S) over all S of ``slots`` models, by trying them all."""
    present = np.flatnonzero(caps > 0)
    found = [
        hard_mix(r, c, g, b, target, np.where(np.isin(np.arange(len(r)), chosen), caps, 0.0))
        for chosen in combinations(present, min(slots, len(present)))
    ]
    reached = [value for value in found if value is not None]
    return max(reached) if reached else None
