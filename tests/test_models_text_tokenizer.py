"""Written text and ids: exact, with one border between prompt and completion wherever they are
joined."""

import numpy as np
import pytest

from models import CheckpointError, TextTokenizer, Tokenizer
from recycle.measure.ask import encode_prompt, id_of
from recycle.train.corpus import Corpus
from tasks import Text
from tasks.english import Triple
from tasks.english_words import SPOUSE_CITY
from tasks.world import Question

tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.interop

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
READ = [
    "The spouse of Ada Hill is Max Cole.",
    "Question: Who is the spouse of Ada Hill?\nAnswer: Max Cole.",
    "Max Cole lives in the city of Oslo, since 1990.",
]
PAIRS = [
    ("The spouse of Ada Hill is", "Max Cole."),
    ("Question: Where does Max live?\nAnswer:", "Oslo."),
    ("Question: Where does Max live?\nThink:", "Max lives in Oslo. Answer: Oslo."),
    ("In the year", "1990."),
    ("A line\n", "and “quotes”, naïve."),
]


def byte_level(special=SPECIAL):
    """BPE on bytes, as SmolLM, Llama 3 and Qwen have it."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(READ, trainer)
    return made


def sentence_piece():
    """BPE that puts a blank before every text and spells unknown letters in bytes, as Llama 2."""
    specials = ["<unk>", "<s>", "</s>"]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[*specials, *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    made.train_from_iterator(READ, trainer)
    made.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    return made


@pytest.fixture(scope="module", params=["byte level", "sentence piece"])
def tokenizer(request):
    made = byte_level() if request.param == "byte level" else sentence_piece()
    return TextTokenizer(made, "m/tokenizer.json")


def test_text_comes_back_exactly(tokenizer):
    for text in (*READ, "  two  blanks ", "naïve 東京 😀\n\n", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = [tokenizer.pad, *tokenizer.encode("Max Cole"), tokenizer.boundary, 9]
    assert tokenizer.decode(ids) == "Max Cole"
    assert tokenizer.highest == len(tokenizer) - 1


@pytest.mark.parametrize("prompt, completion", PAIRS)
def test_training_and_asking_have_the_same_border(tokenizer, prompt, completion):
    """The sequence is encode(prompt) and then encode_completion(completion), in a corpus as after a
    question, and it reads prompt, blank, completion."""
    first, second = tokenizer.encode(prompt), tokenizer.encode_completion(completion)
    assert tokenizer.decode([*first, *second]) == f"{prompt} {completion}"
    question = Question("hop1", prompt, completion, completion)
    assert encode_prompt(tokenizer, question) == [tokenizer.boundary, *first]
    # What a model said goes back into training as it was said.
    assert tokenizer.encode_completion(tokenizer.decode(second)) == second


def test_the_blank_belongs_to_the_completion():
    tokenizer = TextTokenizer(byte_level(), "m/tokenizer.json")
    for prompt, completion in PAIRS:
        joined = tokenizer.encode(f"{prompt} {completion}")
        assert joined == tokenizer.encode(prompt) + tokenizer.encode_completion(completion)
    assert tokenizer.token(tokenizer.encode_completion("Max")[0])[0] == " "
    assert tokenizer.encode_completion(" Max") == tokenizer.encode_completion("Max")
    assert tokenizer.encode_completion("") == []


def test_a_phase_ends_at_the_token_that_an_answer_holds():
    """A period after a name is another token than one after a blank."""
    tokenizer = TextTokenizer(byte_level(), "m/tokenizer.json")
    question = Triple("Ada Hill", "Max Cole", "Oslo", SPOUSE_CITY).question("cot")
    period, written = id_of(tokenizer, ".", question), tokenizer.encode_completion
    steps = question.completion.split(".")
    first = written(question.completion).index(period)
    assert written(question.completion)[:first] == written(steps[0])
    assert written(question.completion).count(period) == len(steps) - 1 == 3
    with pytest.raises(ValueError, match="no token '!' of its own"):
        id_of(tokenizer, "!", question)


def test_a_closed_vocabulary_needs_no_blank():
    closed = Tokenizer.from_texts(["ada lives in rome"])
    assert closed.encode_completion("in rome") == closed.encode("in rome")
    corpus = Corpus.build({"facts": [Text("ada lives", "in rome")]}, {"facts": 1.0}, closed)
    assert np.array_equal(corpus.tokens, [*closed.encode("ada lives in rome"), closed.boundary])


def test_text_that_cannot_come_back_is_refused_in_one_line():
    made = byte_level()
    made.normalizer = tokenizers.normalizers.NFC()
    tokenizer = TextTokenizer(made, "m/tokenizer.json")
    composed = "e\N{COMBINING ACUTE ACCENT}"
    for text in (f"{'long ' * 99}caf{composed}", "one <|endoftext|> two", "a <pad> b", "\ud800"):
        with pytest.raises(ValueError, match="cannot give back|no valid Unicode") as raised:
            tokenizer.encode(text)
        assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def test_boundary_and_padding_are_tokens_that_no_text_holds():
    tokenizer = TextTokenizer(byte_level(), "m", bos=1, eos=2)
    assert (tokenizer.boundary, tokenizer.pad) == (0, 3)  # neither bos nor eos pads
    unnamed = TextTokenizer(byte_level(SPECIAL[:3]), "m", bos=1, eos=1)
    assert (unnamed.boundary, unnamed.pad) == (0, 2)
    named = TextTokenizer(byte_level(("<bos>", "<eos>")), "m", bos=0, eos=1)
    assert (named.boundary, named.pad) == (0, 1)
    with pytest.raises(CheckpointError, match="no token that stands between texts"):
        TextTokenizer(byte_level(("<bos>", "<eos>")), "m")
    with pytest.raises(CheckpointError, match="none for padding"):
        TextTokenizer(byte_level(("<s>",)), "m")
