"""segplug-deploy."""
