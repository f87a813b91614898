"""Model configs by name: a config source that reads the zoos of the installed packages."""
