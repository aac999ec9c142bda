"""A small `transformers` tokenizer in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def words_tokenizer(folder: Path, **options: Any) -> list[str]:
    """Save a tokenizer of whole words, with four sentinels; its words in the order of their ids. 0 pads, 1 ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "def", "return", "import", *(f"name_{index}" for index in range(50))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=[f"<extra_id_{index}>" for index in range(4)],
        **options,
    )
    made.save_pretrained(folder)
    return words
