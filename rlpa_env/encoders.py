"""Sentence embeddings: the one place that loads a model for them, once for all environments of a process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rlpa_env.errors import ConfigError, require

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_KEPT = 50_000  # vectors; 77 MB of MiniLM's


class SentenceEncoder:
    """Texts to unit vectors by a sentence-transformers model on the CPU, which loads at the first text.

    Copies are the same encoder. Get one by `encoder_of`.

    Args:
        model: name of a model, or its folder.
    """

    def __init__(self, model: str = MINILM) -> None:
        if model.startswith(("/", ".", "~")) and not Path(model).expanduser().is_dir():
            raise ConfigError(f"embedding model: expected the folder of a sentence-transformers model; there is none at {model}.")
        self.model = model
        self._net: Any = None
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    def __deepcopy__(self, memo: object) -> SentenceEncoder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_shared, (self.model,))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Float array [len(texts), d] of unit vectors. The newest 50,000 are remembered.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        found = {text: self._known[text] for text in texts if text in self._known}
        new = sorted(set(texts) - found.keys())
        if new:
            vectors = self._loaded().encode(new, normalize_embeddings=True, show_progress_bar=False)
            found |= zip(new, np.asarray(vectors, dtype=np.float32), strict=True)
        for text, vector in found.items():
            self._known[text] = vector
            self._known.move_to_end(text)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return np.stack([found[text] for text in texts]) if len(texts) else np.zeros((0, 0), dtype=np.float32)

    def _loaded(self) -> Any:
        if self._net is None:
            from sentence_transformers import SentenceTransformer

            try:
                self._net = SentenceTransformer(str(Path(self.model).expanduser()) if self.model[0] == "~" else self.model, device="cpu")
            except (OSError, ValueError) as error:
                reason = str(error).strip().partition("\n")[0][:200]
                raise ConfigError(
                    f"embedding model: expected the folder of a sentence-transformers model, or a name that is in the cache or can be "
                    f"downloaded; {self.model!r} did not load: {reason}"
                ) from error
        return self._net


def encoder_of(model: str, what: str) -> SentenceEncoder:
    """The encoder for a model, one a process: environments side by side share it.

    Raises NotInstalledError, naming ``what`` needs it, without the extra ``embed``.
    """
    require("sentence_transformers", "embed", what)
    return _shared(model)


@lru_cache(maxsize=8)
def _shared(model: str) -> SentenceEncoder:
    return SentenceEncoder(model)
