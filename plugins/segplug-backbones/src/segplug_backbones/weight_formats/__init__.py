"""Weight formats: published checkpoints of these backbones, foreign files, and downloads."""
