"""YAML configs of Detectron and Detectron.pytorch as configs of this framework."""
