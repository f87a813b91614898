"""segplug-backbones."""
