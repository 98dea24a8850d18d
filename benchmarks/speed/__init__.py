"""How fast SETR is, as ratios against named alternatives that are measured in the same run: `make bench`."""
