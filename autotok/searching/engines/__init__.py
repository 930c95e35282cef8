"""Who runs trials: in this process, in worker processes, or on Ray, behind one protocol."""
