"""Losses: logits and labels to one number, or to one for each pixel, image or class before the reduction."""
