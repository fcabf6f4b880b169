"""Predictions that changed training labels cannot change: smoothed over the labels, and exact."""
