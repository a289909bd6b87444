"""What all trials of a study share, each made once and found again: model, start, data, prompts, opponent."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raypo.artifacts import Store, hash_folder, hash_of
from raypo.data.embeddings import embed
from raypo.data.keys import tokens_key
from raypo.data.records import Demonstration, Kind, Record, Text
from raypo.data.rewriting import as_kind, demonstrations
from raypo.data.sources import Loaded
from raypo.data.specs import apply_transforms, parse_transforms
from raypo.data.tokenise import tokenise
from raypo.data.tokens import TokenSet
from raypo.data.truncation import Limits
from raypo.errors import DataError, ModelError
from raypo.quickstart import model as tiny
from raypo.quickstart.vocabulary import words
from raypo.search.data_notes import overlap_note, read_note, token_note
from raypo.search.opponents import Prompt
from raypo.search.prompts import prompts_of
from raypo.search.sources import QUICKSTART, read_demonstrations, read_records, read_source
from raypo.search.together import made_alone, made_together
from raypo.spaces import Value
from raypo.study import Study

Stage = Callable[[str], None]
SHAPING = ("lists_to_pairs", "factor_common_prefix")
"""Transforms that say what a row is, for held-out ones as for those of training."""


@dataclass(frozen=True)
class Tokens:
    """Tokenised data with the key it is stored under."""

    set: TokenSet
    key: dict[str, Any]


class Materials:
    """The study's shared inputs. Every method is called by all ranks together."""

    def __init__(self, study: Study, store: Store, say: Stage) -> None:
        self.study, self.store, self.say = study, store, say
        self._tokens: dict[str, Tokens] = {}
        self._of_points: dict[str, Tokens] = {}
        self._held: dict[str, Tokens | None] = {}
        self._prompts: dict[bool, list[Prompt]] = {}
        self._trained: list[Text] = []

    # Models ---------------------------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> Path:
        """Folder of the model before any fine-tuning."""
        model = self.study.model
        if model.build is not None:
            from raypo.quickstart.language_model import build_from_text

            self.say("building a small language model from text")
            key = {
                "build": model.build.model_dump(exclude={"text"}),
                "text": hash_folder(model.build.text, self.store.hashes),
            }
            made = model.build.model_dump()
            return made_alone(
                self.store, "base-model", key, lambda folder: build_from_text(folder, **made, say=self.say)
            )
        if model.path == QUICKSTART:
            key = {"quickstart": hash_of(words()), "config": hash_folder(tiny.__file__)}
            return made_alone(self.store, "base-model", key, tiny.build)
        return model_folder(str(model.path), "model.path")

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.base, trust_remote_code=self.study.model.trust_remote_code)

    @cached_property
    def start(self) -> Path:
        """Folder of the model that every trial starts from and is compared with."""
        sft = self.study.model.sft
        if sft is None:
            return self.base
        from raypo.search.starting import fine_tune

        tokens = self.tokens_of(self.sft_records())
        key = {
            "model": self.base_hash,
            "tokens": hash_of(tokens.key),
            "sft": sft.model_dump(),
            "seed": self.study.search.seed,
            "dtype": self.study.model.dtype,
            **({"lora": self.study.model.lora.model_dump()} if self.study.model.lora else {}),
        }

        def make(folder: Path) -> None:
            self.say(f"fine-tuning the starting model on {len(tokens.set)} answers")
            fine_tune(self.study, self.base, tokens.set, folder, self.say)

        return made_together(self.store, "sft-model", key, make)

    @cached_property
    def base_hash(self) -> str:
        return hash_folder(self.base, self.store.hashes)

    @cached_property
    def start_hash(self) -> str:
        return hash_folder(self.start, self.store.hashes)

    # Data -----------------------------------------------------------------------------------------------------------

    @cached_property
    def loaded(self) -> Loaded:
        """All rows of the data, before the transforms."""
        data = self.study.data
        return read_source(
            data.source,
            split=data.split,
            count=data.count,
            format=data.format,
            columns=data.columns,
            allow_code=self.study.allow_code,
            seed=data.seed,
        )

    def notes(self) -> list[str]:
        """What became of the data that was asked for so far, a line for each part."""
        loaded = self.loaded
        told = [read_note(f"data from {self.study.data.source}", loaded.format, loaded.report)]
        told += [token_note(f"training ({tokens.set.kind})", tokens.set) for tokens in self._of_points.values()]
        trained = self._trained or [record.prompt for record in self._parts[0]]
        asked = {"evaluation": self.prompts()}
        if self.study.confirm.top:
            asked["confirmation"] = self.prompts(confirm=True)
        warnings = [overlap_note(trained, [prompt.text for prompt in found], what) for what, found in asked.items()]
        return [*told, *filter(None, warnings)]

    @cached_property
    def _parts(self) -> tuple[list[Record], list[Record]]:
        """(training, held-out): whole prompts are held out, the same whatever the transforms."""
        share = self.study.data.heldout
        kept: list[Record] = []
        held: list[Record] = []
        for record in self.loaded.records:
            draw = random.Random(f"{self.study.data.seed} {record.prompt!r}").random()
            (held if draw < share else kept).append(record)
        return kept, held

    def training_tokens(self, kind: Kind, point: Mapping[str, Value]) -> Tokens:
        """Tokenised training data of a trial, in the form its method takes."""
        name = hash_of([kind, self.study.data_transforms(point)])
        if name not in self._of_points:
            records = self.training_records(kind, point)
            self._of_points[name] = self.tokens_of(records)
            self._trained += [record.prompt for record in records]
        return self._of_points[name]

    def training_records(self, kind: Kind, point: Mapping[str, Value]) -> list[Record]:
        """Training rows of a trial after its transforms, in the form its method takes."""
        transforms = parse_transforms(self.study.data_transforms(point))
        return as_kind(apply_transforms(self._parts[0], transforms, self._read_more), kind)

    def sft_records(self) -> list[Record]:
        """Answers that the starting model imitates: of SFT's own source, or of the data after its fixed transforms."""
        sft, data = self.study.model.sft, self.study.data
        assert sft is not None
        if (sft.source or data.source) == QUICKSTART:
            return read_demonstrations(QUICKSTART, count=sft.count, seed=data.seed)
        if sft.source is None:
            transforms = parse_transforms(self.study.fixed_transforms())
            records = apply_transforms(self._parts[0], transforms, self._read_more)
        else:
            records = self._read_more(sft.source)
        records = records[: sft.count]
        if all(isinstance(record, Demonstration) for record in records):
            return records
        return [made for record in records for made in demonstrations(record, sft.on)]

    def heldout_tokens(self, point: Mapping[str, Value]) -> Tokens | None:
        """Tokenised held-out pairs of a trial, for reward accuracy; None where no row is held out, or none is left."""
        shaping = [t for t in parse_transforms(self.study.data_transforms(point)) if t.name in SHAPING]
        name = repr(shaping)
        if name not in self._held:
            try:
                held = apply_transforms(self._parts[1], shaping, self._read_more) if self._parts[1] else []
                self._held[name] = self.tokens_of(as_kind(held, "pairs")) if held else None
            except DataError:  # the few that there are were dropped, as answers that are equal, or lists that are ties
                self._held[name] = None
        return self._held[name]

    def tokens_of(self, records: list[Record]) -> Tokens:
        """Records as tokens: tokenised once, memory-mapped by every rank and trial."""
        data = self.study.data
        limits = Limits(data.max_length, data.max_prompt_length, data.truncation)
        key = tokens_key(records, self.tokenizer, limits, data.chat_template)
        name = hash_of(key)
        if name not in self._tokens:

            def make(folder: Path) -> None:
                self.say(f"tokenising {len(records)} records")
                tokenise(records, self.tokenizer, limits, data.chat_template).save(folder)

            folder = made_alone(self.store, "tokens", key, make)
            self._tokens[name] = Tokens(TokenSet.load(folder), key)
        return self._tokens[name]

    def embeddings(self, tokens: Tokens, point: Mapping[str, Value], kind: Kind) -> np.ndarray:
        """float32 [E, D] prompt embeddings, a row for each example of the tokens."""
        encoder = self.study.data.encoder
        named = encoder if not Path(encoder).is_dir() else hash_folder(encoder, self.store.hashes)

        def make(folder: Path) -> None:
            records = self.training_records(kind, point)
            self.say(f"embedding the prompts of {len(tokens.set)} examples")
            prompts = [records[i].prompt for i in np.asarray(tokens.set.record)]
            np.save(folder / "embeddings.npy", embed(prompts, encoder), allow_pickle=False)

        folder = made_alone(self.store, "embeddings", {"tokens": hash_of(tokens.key), "encoder": named}, make)
        return np.asarray(np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False))

    # Evaluation -----------------------------------------------------------------------------------------------------

    def prompts(self, confirm: bool = False) -> list[Prompt]:
        """The fixed prompts of the study; those of the confirmation are ones that the search never saw."""
        if confirm not in self._prompts:
            self._prompts[confirm] = prompts_of(self.study, lambda: self._parts[1], confirm)
        return self._prompts[confirm]

    def _read_more(self, source: str, **how: Any) -> list[Record]:
        return read_records(source, allow_code=self.study.allow_code, **how)


def model_folder(path: str, where: str) -> Path:
    """A local folder as it is, or a hub id's snapshot; `where` is the study's key that names it.

    Raises:
        ModelError: the folder holds no model.
    """
    folder = Path(path).expanduser()
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{where}: {folder} is no model folder, it has no config.json; give a Hugging Face folder")
        return folder.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{where}: {path!r} is neither a folder here nor a model that can be fetched: {error}"
        ) from None
