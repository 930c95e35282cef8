"""What was found: records, the run directory, the front, comparisons, notes."""
