"""The frozen base: a small transformer, its tokenizer, and greedy decoding."""

from models.decode import greedy
from models.protocol import LanguageModel, Trainable, Vocabulary
from models.tokenizer import Tokenizer
from models.transformer import Cache, Transformer, TransformerConfig

__all__ = [
    "Cache",
    "LanguageModel",
    "Tokenizer",
    "Trainable",
    "Transformer",
    "TransformerConfig",
    "Vocabulary",
    "greedy",
]
