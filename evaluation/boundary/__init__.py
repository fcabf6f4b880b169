"""The decision boundary in the plane before and after poisoning: study, picture and script."""
