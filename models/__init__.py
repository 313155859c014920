"""The frozen base: a transformer, drawn or from a checkpoint, its tokenizer, greedy decoding."""

from models.causal import CausalLM
from models.checkpoint import load_checkpoint
from models.decode import complete, greedy, pad_right, rows_at_once, sample
from models.export import save_checkpoint
from models.families import CheckpointError
from models.loss import completion_loss, learned_in, token_losses
from models.protocol import LanguageModel, Trainable, Vocabulary, device_of
from models.text_tokenizer import TextTokenizer
from models.tokenizer import Tokenizer
from models.transformer import Cache, Transformer, TransformerConfig

Model = Transformer | CausalLM  # drawn and trained here, or a checkpoint of others

__all__ = [
    "Cache",
    "CausalLM",
    "CheckpointError",
    "LanguageModel",
    "Model",
    "TextTokenizer",
    "Tokenizer",
    "Trainable",
    "Transformer",
    "TransformerConfig",
    "Vocabulary",
    "complete",
    "completion_loss",
    "device_of",
    "greedy",
    "learned_in",
    "load_checkpoint",
    "pad_right",
    "rows_at_once",
    "sample",
    "save_checkpoint",
    "token_losses",
]
