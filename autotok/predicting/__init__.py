"""Latency and memory from an operator trace; targets and their calibration."""
