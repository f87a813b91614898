"""The hook that every run has by the kernel alone: checkpoints."""
