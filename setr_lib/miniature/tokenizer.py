"""The two small models' tokenizers: byte-level BPE, so any text a person types has tokens, trained on the
world's words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from setr_lib.miniature.families import make_family
from setr_lib.miniature.pictures import BACKGROUNDS, describe_modification

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS, IMAGE, USER, ASSISTANT = "<pad>", "<bos>", "<eos>", "<image>", "<user>", "<assistant>"
JSON_PIECES = (
    '{"keep": [',
    '], "add": [',
    '], "remove": [',
    '], "drop": [',
    '], "target_caption": "',
    '", "',
    '"}',
    '"',
)
"""The composition's fixed JSON parts, one token each: what the model must learn is what goes between them."""
ANSWERS = ("Yes", "No")
_VOCABULARY = 720


def _texts(seed: int) -> Iterator[str]:
    rng = Random(f"tokenizer/{seed}")
    for _ in range(4000):
        family = make_family(rng, 3)
        yield family[0].caption()
        modification = describe_modification(family[0], family[1], rng, mention_background=True)
        if modification is not None:
            yield modification.text
            yield from modification.composition.keep
    yield from BACKGROUNDS.values()
    yield from ("describe compose match ? is it this picture image query candidate",) * 50


def build_tokenizer(seed: int, specials: tuple[str, ...], last: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE trained on the world's texts.

    Args:
        seed: Of the texts.
        specials: Special tokens with the lowest ids.
        last: Special tokens with the highest ids.

    Returns:
        The tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in last])
    return tokenizer


def save_clip_tokenizer(folder: Path, seed: int, context_length: int) -> int:
    """Write the small CLIP's tokenizer. open_clip pools at the highest id, so the end-of-text token comes
    last.

    Args:
        folder: The model's folder.
        seed: Of the texts that it is trained on.
        context_length: Tokens of a text, at most.

    Returns:
        The size of its vocabulary.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = build_tokenizer(seed, (PAD, BOS), (EOS,))
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, bos), (EOS, eos)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=context_length,
    )
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()


def mllm_tokenizer(seed: int) -> Tokenizer:
    """The language model's tokenizer: turn markers, image placeholder, JSON pieces and answers are single
    tokens.

    Args:
        seed: Of the texts that it is trained on.

    Returns:
        The tokenizer.
    """
    from tokenizers import AddedToken

    tokenizer = build_tokenizer(seed, (PAD, BOS, EOS, IMAGE, USER, ASSISTANT))
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in (*JSON_PIECES, *ANSWERS)])
    return tokenizer


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON.

    Args:
        path: The file.
        value: The value.
    """
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def token_ids(
    tokenizer: Tokenizer, tokens: tuple[str, ...] = (PAD, BOS, EOS, IMAGE, USER, ASSISTANT, *ANSWERS)
) -> dict[str, int]:
    """Ids of tokens that the tokenizer was built with.

    Args:
        tokenizer: The tokenizer.
        tokens: The tokens to look up.

    Returns:
        Token -> id, of those that it has.
    """
    ids = {token: tokenizer.token_to_id(token) for token in tokens}
    return {token: number for token, number in ids.items() if number is not None}
