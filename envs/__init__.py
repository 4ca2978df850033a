"""The world: model catalogues, demand, outcomes, exact accounting. Knows nothing of policies."""
