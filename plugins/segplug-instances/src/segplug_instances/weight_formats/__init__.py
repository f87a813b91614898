"""Weights of Detectron, Detectron.pytorch, detectron2 and torchvision under the names of this package's models."""
