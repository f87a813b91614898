"""The kernel's default hook: checkpoints."""
