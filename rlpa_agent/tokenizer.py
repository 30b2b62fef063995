"""A small byte-level BPE with the Qwen chat markup, for models trained from nothing.

    python -m rlpa_agent.tokenizer texts.txt OUT [--vocab-size 512]

Byte-level: any text encodes, and decoding gives it back. A small vocabulary is deliberate: an unseen value falls
into a few common pieces, and copying pieces is what a small model can learn (sizes compared: `rlpa_agent.start`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlpa_env.errors import ConfigError

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""ChatML without a default system message."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 512, max_length: int = 4096) -> Any:
    """Train a byte-level BPE of exactly ``vocab_size`` ids, specials last, and wrap it for transformers.

    Digits stay single, so that ages can be copied digit by digit.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 256 + len(SPECIALS):
        raise ConfigError(
            f"vocab_size: expected at least {256 + len(SPECIALS)} (bytes and specials); got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    # Words with their leading space, single digits, runs of punctuation, line breaks: nothing merges across them.
    words = Regex(r" ?[A-Za-z']+|\d| ?[^\sA-Za-z\d]+|\n+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = tokenizer.get_vocab_size()
    if learned != vocab_size - len(SPECIALS):
        raise ConfigError(
            f"texts: expected enough different text for {vocab_size - len(SPECIALS)} pieces; it gave {learned}. "
            "Add text or lower vocab_size."
        )
    tokenizer.add_special_tokens(list(SPECIALS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def main(arguments: list[str]) -> None:
    """Train on the lines of a text file and save a folder that transformers loads."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m rlpa_agent.tokenizer", description=main.__doc__)
    parser.add_argument("texts", type=Path, help="UTF-8 text, one passage a line")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--vocab-size", type=int, default=512)
    options = parser.parse_args(arguments)
    lines = options.texts.read_text(encoding="utf-8").splitlines(keepends=True)
    tokenizer = train_tokenizer(lines, options.vocab_size)
    tokenizer.save_pretrained(options.out)
    sample = "".join(lines[:1000])
    print(
        f"{len(tokenizer)} ids, {len(sample) / max(len(tokenizer.encode(sample)), 1):.2f} characters per token"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
