"""The loop, fidelities, the time limit, fine-tunes, the final evaluation."""
