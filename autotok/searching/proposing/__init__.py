"""What to try next: the Optuna study, samplers, repair to the budget."""
