"""The few hooks every run has: meter, progress, metrics log, checkpoints."""
