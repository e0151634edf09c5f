"""What the words of titles and groups say of items: fitted to some items, applied to others too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blade_dist.catalog.catalog import Catalog

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

_SVD_SIZE = 128


@dataclass(frozen=True)
class WordFeatures:
    """Latent semantic analysis: an SVD of the words' TF-IDF (Deerwester et al., 1990), each row of length 1."""

    words: TfidfVectorizer
    svd: TruncatedSVD | None
    """None where there are too few words to tell items apart: all rows are ``[1]`` then."""

    @classmethod
    def fit(cls, texts: list[str], seed: int) -> tuple[WordFeatures, NDArray[np.float32]]:
        """Fitted to ``I`` items' texts, see :func:`item_texts`; with their features, float32 ``[I, D]``."""
        from sklearn.decomposition import TruncatedSVD  # takes seconds; titles need none of it
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
        counts = words.fit_transform(texts)
        size = min(_SVD_SIZE, counts.shape[1] - 1, len(texts) - 1)
        if size < 1:
            return cls(words, None), np.ones((len(texts), 1), dtype=np.float32)
        svd = TruncatedSVD(size, random_state=seed)
        return cls(words, svd), _of_length_one(svd.fit_transform(counts))

    def of(self, texts: list[str]) -> NDArray[np.float32]:
        """Features of other items, float32 ``[n, D]``; 0 where no word of an item is known."""
        if self.svd is None or not texts:
            return np.ones((len(texts), 1 if self.svd is None else self.svd.n_components), dtype=np.float32)
        return _of_length_one(self.svd.transform(self.words.transform(texts)))


def item_texts(catalog: Catalog, first: int = 0) -> list[str]:
    """Title and groups of each item from the ``first`` on."""
    return [
        " ".join([catalog.titles[item], *(catalog.group_names[group] for group in catalog.groups[item])])
        for item in range(first, len(catalog))
    ]


def _of_length_one(rows: NDArray[Any]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (rows / np.maximum(lengths, 1e-9)).astype(np.float32)
    return scaled
