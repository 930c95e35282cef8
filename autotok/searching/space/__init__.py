"""What can be asked: budgets, parameters, shapes, subnets, warm starts, space files."""
