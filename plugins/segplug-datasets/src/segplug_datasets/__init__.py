"""segplug-datasets."""
