"""segplug-heads."""
