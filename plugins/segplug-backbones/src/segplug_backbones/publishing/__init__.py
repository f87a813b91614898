"""A trained model as files for others: weights, config and a model card."""
