"""Published rules in plain NumPy and float64, one slot after the other, written from the papers.

Letters as in the papers: z consumption and g service of one task, q the slot's tasks, Q their total, B a budget, α a
target. A twin is played on the same demand and the same uniform numbers as the engine. Nothing here imports JAX.
"""

from dataclasses import dataclass, field
from math import inf, log, sqrt
from typing import Any

import numpy as np

from tests import oracles


@dataclass(frozen=True, kw_only=True)
class Slots:
    """A world whose money may be overspent once, after which the no-op is played for ever."""

    reward: np.ndarray  # [K, G] quantiles; graded, since coin flips would make ties that rounding decides
    table: np.ndarray  # [K, P, G] quantiles of one task's consumption
    bound: np.ndarray  # [K, P] its worst case
    service: np.ndarray  # [K, C] means
    service_is_reward: np.ndarray  # [C] bool
    budget: np.ndarray  # [P]
    target: np.ndarray  # [C]
    demand_bound: float
    nominal: float  # a planner's demand per slot
    demand: np.ndarray  # [T]
    uniforms: np.ndarray  # [T, 3 + C]: of the model, the reward, the consumption, each service

    @property
    def horizon(self) -> int:
        return len(self.demand)

    def outcome(self, t: int, model: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Reward, consumption [P] and service [C] of one task of slot t."""
        u = self.uniforms[t]
        r = float(_quantile(self.reward[model], u[1]))
        z = np.minimum(_quantile(self.table[model], u[2]), self.bound[model])
        g = np.where(self.service_is_reward, r, (u[3:] < self.service[model]).astype(float))
        return r, z, g


def _quantile(table: np.ndarray, uniform: float) -> np.ndarray:
    """[...] the quantile function of tables [..., G] at equally spaced probabilities, linear between them."""
    position = uniform * (table.shape[-1] - 1)
    below = min(int(position), table.shape[-1] - 2)
    low, high = table[..., below], table[..., below + 1]
    return low + (high - low) * (position - below)


@dataclass
class Seen:
    """What a rule may use at the start of slot t; means are kept as the papers define them, over slots played."""

    world: Slots
    t: int = 0
    arrived: float = 0.0  # Σ q so far
    spent: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [P]
    covered: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [C] Σ q g so far
    played: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [K]
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))  # [K, 1 + P + C]
    forecast: str = "exact"

    def __post_init__(self) -> None:
        models, resources, metrics = *self.world.bound.shape, self.world.service.shape[1]
        self.spent, self.covered = np.zeros(resources), np.zeros(metrics)
        self.played, self.mean = np.zeros(models, int), np.zeros((models, 1 + resources + metrics))

    def total(self) -> float:
        """Q̂ from the slots before this one."""
        if self.forecast == "exact":
            return float(self.world.demand.sum())
        return self.world.horizon * (self.arrived / self.t if self.t else self.world.nominal)

    def rest(self) -> float:
        """What of Q̂ is still to come, this slot included."""
        if self.forecast == "exact":
            return float(self.world.demand[self.t :].sum())
        return (self.world.horizon - self.t) * (self.arrived / self.t if self.t else self.world.nominal)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A whole run."""

    model: np.ndarray  # [T] -1 for the no-op
    duals: np.ndarray  # [T, d] before each slot
    spent: np.ndarray  # [T, P] before each slot


def play(world: Slots, rule: Any, *, forecast: str = "exact") -> Trace:
    """One run of a rule with ``choose(seen) -> model or shares [K]`` and ``learn(seen, q, model, r, z, g)``."""
    seen = Seen(world, forecast=forecast)
    models, duals, books = [], [], []
    for t, q in enumerate(world.demand):
        seen.t = t
        duals.append(np.array(rule.duals()))
        books.append(seen.spent)
        crossed = (seen.spent > world.budget).any()
        model = -1 if crossed or q == 0 else _drawn(rule.choose(seen), world.uniforms[t, 0])
        if model >= 0:
            r, z, g = world.outcome(t, model)
            rule.learn(seen, q, model, r, z, g)
            seen.spent = seen.spent + q * z
            seen.covered = seen.covered + q * g
            seen.played[model] += 1
            seen.mean[model] += (np.concatenate([[r], z, g]) - seen.mean[model]) / seen.played[model]
        seen.arrived += q
        models.append(model)
    return Trace(model=np.array(models), duals=np.array(duals), spent=np.array(books))


def _drawn(choice: Any, uniform: float) -> int:
    """A model as it is, or one drawn from shares; -1 beyond them."""
    if np.ndim(choice) == 0:
        return int(choice)
    edges = np.cumsum(choice)
    beyond = int((edges <= uniform * max(edges[-1], 1.0)).sum())
    return beyond if beyond < len(choice) else -1


def radius(v: np.ndarray, n: np.ndarray, level: float, under_root: float = 2.0, linear: float = 4.0) -> np.ndarray:
    """sqrt(2 v L / N) + 4 L / N."""
    return np.sqrt(under_root * level * v / n) + linear * level / n


def project(v: np.ndarray, reach: float) -> np.ndarray:
    """The nearest point of {λ >= 0, Σ λ <= reach}."""
    w = np.maximum(v, 0.0)
    if w.sum() <= reach:
        return w
    downwards = np.sort(w)[::-1]
    theta = max((downwards[: j + 1].sum() - reach) / (j + 1) for j in range(len(w)))
    return np.maximum(w - theta, 0.0)


@dataclass
class Copac:
    """COPAC-UCB (arXiv 2606.17489); with ``covers`` off and a reach of 1, OA-UCB (arXiv 2302.04182)."""

    world: Slots
    eta_scale: float = 1.0
    radius_variance: float = 2.0
    radius_linear: float = 4.0
    delta: float = 1e-6
    targets: str = "static"
    dual_signal: str = "bounds"
    covers: bool = True

    def __post_init__(self) -> None:
        world = self.world
        self.packing = [i for i, b in enumerate(world.budget) if b < inf]
        self.covering = [j for j, a in enumerate(world.target) if a > 0] if self.covers else []
        d = len(self.packing) + len(self.covering)
        self.lam_packing = dict.fromkeys(self.packing, 1 / d)
        self.lam_covering = dict.fromkeys(self.covering, 1 / d)
        most = world.demand_bound
        per_slot = [world.budget[i] / world.horizon for i in self.packing]
        per_slot += [world.target[j] * most for j in self.covering]
        self.gradient_bound = most + most**2 / min(per_slot, default=inf)
        self.reach = world.horizon**0.25 if self.covers else 1.0

    def duals(self) -> np.ndarray:
        packing = [self.lam_packing.get(i, 0.0) for i in range(len(self.world.budget))]
        return np.array(packing + [self.lam_covering.get(j, 0.0) for j in range(len(self.world.target))])

    def bounds(self, seen: Seen, model: int) -> tuple[float, np.ndarray, np.ndarray]:
        """UCB of reward, LCB of consumption [P], UCB of service [C]."""
        resources = len(seen.spent)
        if seen.played[model] == 0:
            return 1.0, np.zeros(resources), np.ones(len(seen.covered))
        v, n = seen.mean[model], seen.played[model]
        rad = radius(v, n, log(1 / self.delta), self.radius_variance, self.radius_linear)
        upper, lower = np.minimum(v + rad, 1.0), np.maximum(v - rad, 0.0)
        return upper[0], lower[1 : 1 + resources], upper[1 + resources :]

    def factors(self, seen: Seen) -> tuple[dict[int, float], dict[int, float]]:
        """Q̂/B of each packing row and of each covering row, whose B is αQ̂."""
        budget, alpha, total = self.world.budget, self.world.target, seen.total()
        if self.targets == "static":
            return {i: total / budget[i] for i in self.packing}, {j: 1 / alpha[j] for j in self.covering}
        left = {i: max(budget[i] - seen.spent[i], 2.0**-52 * budget[i]) for i in self.packing}
        if self.targets == "literal":
            return {i: total / left[i] for i in self.packing}, {j: 1 / alpha[j] for j in self.covering}
        rest = seen.rest()
        missing = {j: alpha[j] * (seen.arrived + rest) - seen.covered[j] for j in self.covering}
        wanted = {j: short / rest if rest else 0.0 for j, short in missing.items()}
        return {i: rest / left[i] for i in self.packing}, {j: 1 / min(max(w, 1e-3), 1.0) for j, w in wanted.items()}

    def choose(self, seen: Seen) -> int:
        best, choice = -inf, -1
        packing, covering = self.factors(seen)
        for model in range(len(self.world.reward)):
            r, z, g = self.bounds(seen, model)
            index = r - sum(self.lam_packing[i] * packing[i] * z[i] for i in self.packing)
            index += sum(self.lam_covering[j] * covering[j] * g[j] for j in self.covering)
            if index > best:
                best, choice = index, model
        return choice

    def learn(self, seen: Seen, q: float, model: int, r: float, z: np.ndarray, g: np.ndarray) -> None:
        packing, covering = self.factors(seen)
        if self.dual_signal == "bounds":
            _, z, g = self.bounds(seen, model)
        step = self.eta_scale * 2 / (self.gradient_bound * sqrt(seen.t + 1))
        moved = [self.lam_packing[i] - step * q * (1 - packing[i] * z[i]) for i in self.packing]
        moved += [self.lam_covering[j] - step * q * (-1 + covering[j] * g[j]) for j in self.covering]
        kept = project(np.array(moved), self.reach)
        self.lam_packing = dict(zip(self.packing, kept, strict=False))
        self.lam_covering = dict(zip(self.covering, kept[len(self.packing) :], strict=True))


class OwnBounds:
    """UCB and LCB of the shared confidence, kept from raw samples."""

    def __init__(self, world: Slots, confidence: float, kappa: float) -> None:
        models, metrics = world.service.shape
        self.world, self.kappa = world, kappa
        self.level = oracles.level(confidence, models, world.horizon)
        self.beliefs = oracles.Beliefs(np.hstack([np.ones((models, 1)), world.bound, np.ones((models, metrics))]))

    def __call__(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """UCB of reward [K], LCB of consumption [K, P], UCB of service [K, C]."""
        samples = [np.array(rows) for rows in self.beliefs.samples]
        lower, upper = oracles.bounds(samples, self.beliefs.ceiling, self.level, self.kappa)
        resources = self.world.bound.shape[1]
        return upper[:, 0], lower[:, 1 : 1 + resources], upper[:, 1 + resources :]

    def see(self, model: int, r: float, z: np.ndarray, g: np.ndarray) -> None:
        self.beliefs.samples[model].append(np.concatenate([[r], z, g]))


class PdBwK:
    """PrimalDualBwK (Badanidiyuru, Kleinberg, Slivkins), algorithm 2, with covering as shortfall."""

    def __init__(self, world: Slots, confidence: float, kappa: float) -> None:
        self.world, self.bounds = world, OwnBounds(world, confidence, kappa)
        resources, metrics = len(world.budget), len(world.target)
        self.v = np.ones(resources + 1 + metrics)
        self.limited = np.concatenate([world.budget < inf, [True], world.target > 0])

    def duals(self) -> np.ndarray:
        resources = len(self.world.budget)
        return np.delete(self.v / self.v.sum(), resources)

    def used(self, seen: Seen) -> tuple[np.ndarray, float]:
        """What a task of each model uses at least [K, d], and the smallest budget, to which all are scaled."""
        _, z, g = self.bounds()
        total = max(seen.total(), self.world.demand_bound)
        budgets = np.concatenate([self.world.budget, [total], np.maximum(1 - self.world.target, 1e-3) * total])
        smallest = budgets[self.limited].min()
        scale = np.where(self.limited, smallest / budgets, 0.0)
        return np.hstack([z, np.ones((len(z), 1)), 1 - g]) * scale, smallest

    def choose(self, seen: Seen) -> int:
        for model, played in enumerate(seen.played):
            if played == 0:
                return model
        used, _ = self.used(seen)
        return int(np.argmax(self.bounds()[0] / (used @ self.v)))

    def learn(self, seen: Seen, q: float, model: int, r: float, z: np.ndarray, g: np.ndarray) -> None:
        used, smallest = self.used(seen)
        most = self.world.demand_bound
        epsilon = sqrt(log(max(self.limited.sum(), 2)) / (smallest / most))
        self.v = self.v * (1 + epsilon) ** (q / most * used[model])
        self.bounds.see(model, r, z, g)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A slot's linear program: max r·x - penalty Σ y with c·x <= ρ, g·x + y >= min(wanted, largest g), Σ x <= 1."""

    reward: np.ndarray  # [K]
    consumption: np.ndarray  # [K, P]
    service: np.ndarray  # [K, C]
    spending: np.ndarray  # [P]
    wanted: np.ndarray  # [C]


class AdUCB:
    """Agrawal and Devanur's program; ``targets`` chooses its right-hand side."""

    def __init__(self, world: Slots, confidence: float, kappa: float, targets: str, gamma: float) -> None:
        self.world, self.targets, self.gamma = world, targets, gamma
        self.bounds = OwnBounds(world, confidence, kappa)

    def program(self, seen: Seen) -> Program:
        r, z, g = self.bounds()
        budget, alpha = self.world.budget, self.world.target
        if self.targets == "resolving":
            rest = max(seen.rest(), 1e-300)
            spending = np.maximum(budget - seen.spent, 0) / rest
            wanted = np.clip((alpha * (seen.arrived + rest) - seen.covered) / rest, 0, 1)
            return Program(reward=r, consumption=z, service=g, spending=np.minimum(spending, 1), wanted=wanted)
        spending = np.minimum(budget / max(seen.total(), 1e-300), 1)
        if self.targets == "static_epsilon":
            ratio = self.gamma * len(r) / (budget.min() / self.world.demand_bound)
            spending = spending * (1 - min(sqrt(ratio) + log(self.world.horizon) * ratio, 1))
        return Program(reward=r, consumption=z, service=g, spending=spending, wanted=alpha)

    def learn(self, seen: Seen, q: float, model: int, r: float, z: np.ndarray, g: np.ndarray) -> None:
        self.bounds.see(model, r, z, g)


class SwUCB:
    """Liu, Jiang and Li's program on discounted means; every sample is kept and weighted anew in each slot."""

    def __init__(self, world: Slots, scale: float, reward_variation: float, consumption_variation: float) -> None:
        self.world, self.scale = world, scale
        self.keep = [self._kept(reward_variation), self._kept(consumption_variation)]
        self.samples: list[tuple[int, int, np.ndarray]] = []  # slot, model, outcome

    def _kept(self, variation: float) -> float:
        models, horizon = len(self.world.reward), self.world.horizon
        window = models ** (1 / 3) * variation ** (-2 / 3) * horizon ** (2 / 3) if variation else inf
        return 1.0 if window >= horizon else 1 - 1 / max(window, 1)

    def _means(self, keep: float, now: int) -> tuple[np.ndarray, np.ndarray]:
        """Weighted counts [K] and means [K, 1 + P + C]; a sample weighs keep^(slots since)."""
        models, resources, metrics = *self.world.bound.shape, self.world.service.shape[1]
        n, total = np.zeros(models), np.zeros((models, 1 + resources + metrics))
        for slot, model, outcome in self.samples:
            weight = keep ** (now - 1 - slot)
            n[model] += weight
            total[model] += weight * outcome
        return n, total / np.where(n > 0, n, 1)[:, None]

    def program(self, seen: Seen) -> Program:
        models, horizon, resources = len(self.world.reward), self.world.horizon, len(self.world.budget)
        d = max(sum(b < inf for b in self.world.budget), 1)
        n, mean = self._means(self.keep[0], seen.t)
        r = mean[:, 0] + self.scale * np.sqrt(2 * log(12 * models * horizon**3) / (n + 1))
        m, others = self._means(self.keep[1], seen.t)
        wide = self.scale * np.sqrt(2 * log(12 * models * d * horizon**3) / (m + 1))[:, None]
        z = np.maximum(others[:, 1 : 1 + resources] - wide, 0)
        g = np.minimum(others[:, 1 + resources :] + wide, 1)
        return Program(
            reward=np.where(n > 0, np.minimum(r, 1), 1),
            consumption=np.where(m[:, None] > 0, z, 0),
            service=np.where(m[:, None] > 0, g, 1),
            spending=np.minimum(self.world.budget / max(seen.total(), 1e-300), 1),
            wanted=self.world.target,
        )

    def learn(self, seen: Seen, q: float, model: int, r: float, z: np.ndarray, g: np.ndarray) -> None:
        self.samples.append((seen.t, model, np.concatenate([[r], z, g])))


class Follows:
    """A rule of programs that is made to play given mixes, so that two solvers of a tie stay on one path."""

    def __init__(self, rule: Any, shares: np.ndarray) -> None:
        self.rule, self.shares = rule, shares
        self.programs: dict[int, Program] = {}  # by slot

    def duals(self) -> np.ndarray:
        return np.zeros(0)

    def choose(self, seen: Seen) -> np.ndarray:
        self.programs[seen.t] = self.rule.program(seen)
        return self.shares[seen.t]

    def learn(self, *outcome: Any) -> None:
        self.rule.learn(*outcome)
