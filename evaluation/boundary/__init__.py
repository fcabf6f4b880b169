"""The decision boundary in the plane before and after poisoning: the study, its picture, a script."""
