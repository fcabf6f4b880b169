"""Certificates against changed training labels: by smoothing over the labels, and exact certificates."""
