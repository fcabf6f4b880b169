"""One classifier from several: the majority vote of networks that were trained apart."""

from collections.abc import Sequence

import keras
from keras import layers

SHARPNESS = 1e6  # times the logits; a softmax of them is the largest one's class, but for ties within 1e-5


def majority_vote(models: Sequence[keras.Model]) -> keras.Model:
    """A model from images to the share of the models that vote for each class, of standard layers only.

    models: of one input shape and one number of classes; each stays as it is. As in "Deep Partition Aggregation" (ICLR
    2021, arXiv 2006.14768) the class with most votes wins, the smaller one of two with equally many.
    """
    inputs = keras.Input(models[0].input_shape[1:])
    votes = []
    for number, model in enumerate(models):
        part = keras.Model(model.inputs[0], model.outputs[0], name=f"part_{number}")
        votes.append(layers.Softmax()(layers.Rescaling(SHARPNESS)(part(inputs))))
    return keras.Model(inputs, layers.Average()(votes) if len(votes) > 1 else votes[0], name="majority_vote")
