"""Theorems of Wu, Liu, Chrysos and Cevher 2023, *On the Convergence of Encoder-only Shallow
Transformers*, one file a chapter."""

from ._encoder import EncoderStart
from .width import proposition_1, proposition_1_printed

__all__ = ["EncoderStart", "proposition_1", "proposition_1_printed"]
