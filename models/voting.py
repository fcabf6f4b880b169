"""One classifier from several: the majority vote of networks that were trained apart."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.lazy import keras, layers

# So many softmaxes, each of so many times the scores before, give the largest score's class 1 and the others 0, but for
# scores that differ by less than 1e-5. One softmax of a million times the logits would do so on paper only: where a
# compiler fuses the product with the difference from the maximum, rounding errors of the product end in the exponent.
SHARPNESS, SOFTMAXES = 100.0, 3
TIE = 1e-4  # how much a vote for a class counts less than one for the class before it


def majority_vote(models: Sequence[keras.Model]) -> keras.Model:
    """A model from images to the share of the models that vote for each class, of standard layers only.

    models: of one input shape and one number of classes; each stays as it is. As in "Deep Partition Aggregation" (ICLR
    2021, arXiv 2006.14768) the class with most votes wins, the smaller one of two with equally many.
    """
    inputs = keras.Input(models[0].input_shape[1:])
    votes = []
    for number, model in enumerate(models):
        scores = keras.Model(model.inputs[0], model.outputs[0], name=f"part_{number}")(inputs)
        for _ in range(SOFTMAXES):
            scores = layers.Softmax()(layers.Rescaling(SHARPNESS)(scores))
        votes.append(scores)
    shares = layers.Average()(votes) if len(votes) > 1 else votes[0]
    in_favour_of_the_smaller = [-TIE * label for label in range(shares.shape[-1])]
    return keras.Model(inputs, layers.Rescaling(1.0, in_favour_of_the_smaller)(shares), name="majority_vote")
