"""How benchmarks are read: evaluation sets, annotation files, official counts."""
