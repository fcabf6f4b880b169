"""Training of victims: a loss per training method, the loop, defences of the data. Also contrastive learning."""

import runtime as _environment  # noqa: F401  (sets the backend's environment before Keras is imported)
