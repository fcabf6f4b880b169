"""Datasets, and everything a run reads from or writes to disk.

Importing this package fixes the process environment that the tensor backend reads when it is first
imported; every other package that uses Keras imports this one first for that reason.
"""

import os

# TensorFlow is the default backend (Keras's own default may be overridden by ~/.keras/keras.json).
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TensorFlow switches oneDNN's convolutions on by itself only for some Intel processors; on the others
# they are about twice as fast as the fallback.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
