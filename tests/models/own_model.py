"""A model as a user writes it: a subclassed keras.Model, registered, and the function that gives its logits."""

from typing import Any

import keras
from keras import layers


@keras.saving.register_keras_serializable("tests")
class OwnModel(keras.Model):
    """A convolution, BatchNorm within a list of layers, and a dense layer."""

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_classes = num_classes
        self.parts = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten()]
        self.dense = layers.Dense(num_classes)

    def call(self, x: Any, training: bool = False) -> Any:
        for part in self.parts:
            x = part(x, training=training) if isinstance(part, layers.BatchNormalization) else part(x)
        return self.dense(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes}


def own_model(x: Any, num_classes: int) -> Any:
    return OwnModel(num_classes)(x)


def own_dropout(x: Any, num_classes: int) -> Any:
    return layers.Dropout(0.5)(layers.Dense(num_classes)(layers.Flatten()(x)))


def own_softmax_of_pixels(x: Any, num_classes: int) -> Any:
    """No logits: one score too many."""
    return layers.Dense(num_classes + 1)(layers.Flatten()(x))


class WithoutInitializer(layers.Layer):
    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(1,), name="scale")

    def call(self, x: Any) -> Any:
        return x * self.scale


def own_without_initializer(x: Any, num_classes: int) -> Any:
    return layers.Dense(num_classes)(layers.Flatten()(WithoutInitializer()(x)))
