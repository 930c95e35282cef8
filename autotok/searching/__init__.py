"""Search: spaces, budgets, proposals, the loop and its records. Import from the modules."""
