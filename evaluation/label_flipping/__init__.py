"""Certificates against changed training labels: the study, its references, its figure; a script per dataset."""
