"""Whole models: backbone, neck and heads put together."""
