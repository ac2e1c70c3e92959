"""Trains the language encoder for itself, on texts with the raters' finer labels; CLCR begins with it (`language` in a
recipe).

The 28 labels of GoEmotions tell apart what the six lump together, and every comment has some of them: twice as many
texts as have one of the six alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from clcr.network.config import EMOTIONS
from clcr.training import checkpoint
from clcr.training.data.text_sets import TextSet, fine_names, load_text_set
from clcr.training.part import Part, Scores, check_best, claim, read_recipe, score_answers, train_part
from clcr.training.recipe import Language
from clcr.training.start import language_encoder
from clcr_stream.errors import ConfigError

BLOCK_STEPS = 16  # whose texts are sorted by length, so that a step's are about as long as each other


class TextUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text set, how many of its texts go into each step, and which head names their emotion."""

    file: str
    per_step: int
    head: str


class TextScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text set that is scored, and the head that answers."""

    file: str
    head: str


class WordsRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a run depends on besides the data. Paths are from the working folder."""

    kind: Literal["words"]
    language: Language
    tokenizer: str
    train: tuple[TextUse, ...]
    dev: tuple[TextScore, ...]
    best: str  # the name of the set whose macro-F1 chooses best/
    steps: int
    most_tokens: int = 64
    dropout: float = 0.1  # before the heads
    freeze_embeddings: bool = True
    seed: int = 1
    warmup_steps: int = 200
    learning_rate: float = 1e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    final_rate: float = 0.0
    clip_norm: float = 1.0
    balance: float = 0.5  # power of a label's rarity in its weight
    label_smoothing: float = 0.1
    fine_weight: float = 4.2
    ema_decay: float = 0.99
    eval_every_steps: int = 500
    checkpoint_minutes: float = 4.0


class TextClassifier(nn.Module):
    """The encoder that CLCR will take over, and heads that only this training needs."""

    def __init__(self, recipe: WordsRecipe, fine: int) -> None:
        super().__init__()
        self.encoder = language_encoder(recipe.language)
        hidden = self.encoder.hidden
        self.dropout = nn.Dropout(recipe.dropout)
        self.fine = nn.Linear(hidden, fine)
        names = sorted({use.head for use in recipe.train})
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(EMOTIONS)) for name in names})

    def forward(self, token_ids: Tensor, valid: Tensor) -> Tensor:
        """(n, N) integers, (n, N) 0 or 1 -> the mean of the last hidden states (n, hidden)."""
        last = self.encoder(token_ids, valid)[-1]
        mean = (last * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp_min(1.0)
        return self.dropout(mean)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Tokens:
    """A text set as the encoder reads it; label -1: none of the six, fine NaN: nobody was asked."""

    ids: list[list[int]]
    labels: NDArray[np.int64]
    fine: NDArray[np.float32]

    @classmethod
    def of(cls, texts: TextSet, tokenizer: Tokenizer, names: tuple[str, ...]) -> Tokens:
        """Tokenised, with the finer labels in the order of `names`."""
        ids = [encoding.ids for encoding in tokenizer.encode_batch([text.text for text in texts.texts])]
        labels = [-1 if text.label is None else EMOTIONS.index(text.label) for text in texts.texts]
        fine = np.full((len(ids), len(names)), np.nan, np.float32)
        for row, text in enumerate(texts.texts):
            if text.fine is not None:
                fine[row] = [name in text.fine for name in names]
        return cls(ids, np.array(labels), fine)


class Texts:
    """The training batches of a recipe."""

    def __init__(self, recipe: WordsRecipe, sets: list[Tokens]) -> None:
        self._recipe, self._sets = recipe, sets
        self._block, self._rows = -1, np.zeros((0, 0, 2), np.int64)

    def at(self, step: int) -> list[tuple[int, int]]:
        """The texts of a step: (number of the set, row)."""
        block, place = divmod(step, BLOCK_STEPS)
        if block != self._block:
            self._block, self._rows = block, self._drawn(np.random.default_rng((self._recipe.seed, block)))
        return [(int(which), int(row)) for which, row in self._rows[place]]

    def _drawn(self, rng: np.random.Generator) -> NDArray[np.int64]:
        drawn = [
            (which, int(row), len(texts.ids[row]))
            for which, (use, texts) in enumerate(zip(self._recipe.train, self._sets, strict=True))
            for row in rng.integers(len(texts.ids), size=BLOCK_STEPS * use.per_step)
        ]
        drawn.sort(key=lambda item: item[2])
        rows = np.array([item[:2] for item in drawn]).reshape(BLOCK_STEPS, -1, 2)
        return rows[rng.permutation(BLOCK_STEPS)]


def padded(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids (n, N) and which of them are there (n, N)."""
    token_ids = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    valid = torch.zeros(token_ids.shape)
    for row, text in enumerate(ids):
        token_ids[row, : len(text)], valid[row, : len(text)] = torch.tensor(text), 1.0
    return token_ids, valid


def load_words_recipe(path: Path) -> WordsRecipe:
    """Read a recipe; raises ConfigError with the key that is wrong."""
    return read_recipe(path, WordsRecipe, "configs/words.yaml")


def train_words(folder: Path, recipe: WordsRecipe, resume: bool, until_step: int | None = None) -> str:
    """Train to the recipe's last step or until a signal; says which.

    Writes log.jsonl, best/, last/ and final/; `encoder/` in best/ and final/ is a folder for a recipe's `language`.
    """
    torch.manual_seed(recipe.seed)
    check_best(recipe.best, [Path(use.file).stem for use in recipe.dev])
    heads = sorted({use.head for use in recipe.train})
    if unknown := sorted({use.head for use in recipe.dev} - set(heads)):
        raise ConfigError(f"recipe: no set of train has the head {unknown[0]!r}; allowed in dev: {', '.join(heads)}")
    claim(folder, recipe, resume)
    tokenizer = Tokenizer.from_file(recipe.tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(recipe.most_tokens)
    train = [load_text_set(Path(use.file), "train") for use in recipe.train]
    names = fine_names(train)
    sets = [Tokens.of(one, tokenizer, names) for one in train]
    dev = [(use, Tokens.of(load_text_set(Path(use.file), "dev"), tokenizer, names)) for use in recipe.dev]
    model, shown = TextClassifier(recipe, len(names)), TextClassifier(recipe, len(names)).eval()
    model.encoder.embeddings.requires_grad_(not recipe.freeze_embeddings)
    texts, rarity = Texts(recipe, sets), rarity_of(sets, recipe.balance)

    def loss(step: int) -> Tensor:
        return _loss(model, recipe, sets, texts.at(step), rarity)

    def scores(weights: checkpoint.State) -> Scores:
        shown.load_state_dict(weights)
        return {Path(use.file).stem: score_texts(shown, use.head, tokens) for use, tokens in dev}

    def write(place: Path, weights: checkpoint.State) -> None:
        (place / "encoder").mkdir()
        own = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
        checkpoint.save_tensors(place / "encoder/model.safetensors", own)
        checkpoint.write_json(place / "encoder/config.json", model.encoder.backbone_config)

    return train_part(folder, recipe, Part(model, _optimizer(model, recipe), loss, scores, write), resume, until_step)


def rarity_of(sets: list[Tokens], balance: float) -> Tensor:
    """The weight of each emotion (6,), 1 in the mean."""
    labels = np.concatenate([tokens.labels for tokens in sets])
    counts = np.bincount(labels[labels >= 0], minlength=len(EMOTIONS)).clip(1).astype(np.float64)
    weights = counts**-balance
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _loss(
    model: TextClassifier, recipe: WordsRecipe, sets: list[Tokens], rows: list[tuple[int, int]], rarity: Tensor
) -> Tensor:
    """Finer labels, each by itself, and the one emotion of those that have one."""
    means: Tensor = model(*padded([sets[which].ids[row] for which, row in rows]))
    fine = torch.from_numpy(np.stack([sets[which].fine[row] for which, row in rows]))
    asked = ~fine.isnan().any(1)
    loss = means.sum() * 0.0
    if bool(asked.any()):
        loss = loss + recipe.fine_weight * functional.binary_cross_entropy_with_logits(
            model.fine(means[asked]), fine[asked]
        )
    labels = torch.tensor([int(sets[which].labels[row]) for which, row in rows])
    heads = [recipe.train[which].head for which, _ in rows]
    for name, head in model.heads.items():
        mine = (labels >= 0) & torch.tensor([one == name for one in heads])
        if bool(mine.any()):
            smoothing = recipe.label_smoothing
            six = functional.cross_entropy(
                head(means[mine]), labels[mine], rarity, label_smoothing=smoothing, reduction="sum"
            )
            loss = loss + six / len(rows)
    return loss


def _optimizer(model: TextClassifier, recipe: WordsRecipe) -> torch.optim.Optimizer:
    """AdamW; the heads, which are fresh, learn faster."""
    encoder = [value for value in model.encoder.parameters() if value.requires_grad]
    heads = [*model.fine.parameters(), *model.heads.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": encoder, "lr": recipe.learning_rate, "base_rate": recipe.learning_rate},
        {"params": heads, "lr": recipe.head_rate, "base_rate": recipe.head_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


@torch.no_grad()
def score_texts(model: TextClassifier, head: str, tokens: Tokens) -> dict[str, Any]:
    """Accuracy and macro-F1 on the texts that have one emotion."""
    rows = np.flatnonzero(tokens.labels >= 0)
    answer = np.zeros(len(rows), np.int64)
    for places in _by_length([tokens.ids[row] for row in rows]):
        means: Tensor = model(*padded([tokens.ids[rows[place]] for place in places]))
        answer[places] = model.heads[head](means).argmax(1).numpy()
    return score_answers(answer, tokens.labels[rows])


def _by_length(ids: list[list[int]], batch: int = 64) -> Iterator[NDArray[np.int64]]:
    order = np.argsort([len(one) for one in ids], kind="stable")
    for start in range(0, len(order), batch):
        yield order[start : start + batch]
