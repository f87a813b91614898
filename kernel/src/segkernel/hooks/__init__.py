"""The few hooks every run has: meter, schedule, progress, metrics log, checkpoints."""
