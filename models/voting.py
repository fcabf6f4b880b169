"""The majority vote of several separately trained networks as one classifier."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.lazy import keras, layers

# A chain of softmaxes, each of SHARPNESS times the scores before it, gives 1 to the class of the largest score and 0 to
# the others. Where the largest score leads by less than about 1e-4 (two close classes) or 1e-3 (ten close classes), the
# vote is split. One softmax of a million times the logits gives 0 and 1 only in exact arithmetic: a compiler may fuse
# the product with the subtraction of the maximum. Then the exponent has the product's rounding errors.
SHARPNESS, SOFTMAXES = 100.0, 3
VOTE = "majority_vote"  # name of the model
TIE = 1e-4  # largest share by which a class is behind the class before it at a tie


def majority_vote(models: Sequence[keras.Model]) -> keras.Model:
    """A model from images to the share of the models that vote for each class, of standard layers only.

    models: all of the same input shape and number of classes. They are not changed. The class with most votes wins. At
    a tie the class of the smaller number wins, as in "Deep Partition Aggregation" (ICLR 2021, arXiv 2006.14768). So the
    result, float32 (N, K), is the share of class k less k times a small number.
    """
    inputs = keras.Input(models[0].input_shape[1:])
    votes = []
    for number, model in enumerate(models):
        scores = keras.Model(model.inputs[0], model.outputs[0], name=f"part_{number}")(inputs)
        for _ in range(SOFTMAXES):
            scores = layers.Softmax()(layers.Rescaling(SHARPNESS)(scores))
        votes.append(scores)
    shares = layers.Average()(votes)
    tie = min(TIE, 0.5 / (len(models) * shares.shape[-1]))  # the last class is behind by less than half a vote
    in_favour_of_the_smaller = [-tie * label for label in range(shares.shape[-1])]
    return keras.Model(inputs, layers.Rescaling(1.0, in_favour_of_the_smaller)(shares), name=VOTE)
