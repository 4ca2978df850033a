"""Linear programs in the loop: the solver, the mix of models, and which models to deploy."""
