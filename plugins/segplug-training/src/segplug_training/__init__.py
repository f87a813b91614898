"""segplug-training."""
