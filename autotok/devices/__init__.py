"""Where a model runs and is timed: runtimes, timer, energy, boards, Ray nodes."""
