"""Studies: configuration, batched simulation, benchmarks, results, pictures and trackers."""
