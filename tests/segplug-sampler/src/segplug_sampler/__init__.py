"""segplug-sampler: one small component of every kind."""
