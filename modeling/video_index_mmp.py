"""A collection of videos to search with words: [`VideoIndex`]."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from .errors_mmp import PolyvidError
from .hubness_mmp import BETA, language_offsets
from .index_building_mmp import embed, exact_engine, joined
from .index_card_mmp import index_card
from .index_corrections_mmp import Corrections, hubs_of
from .index_engines_mmp import Engine, ExactEngine, engine_factory
from .index_maker_mmp import Maker, load_towers
from .index_rows_mmp import VideoRows, conditions
from .index_search_mmp import check_readable, find
from .index_storage_mmp import Parts, push_parts, read_parts, write_parts
from .index_vectors_mmp import StoredVectors, check_storage
from .moments_mmp import window_lengths
from .provenance_mmp import Encoders, shown_encoders

if TYPE_CHECKING:
    from .modeling_mmp import MMPModel
    from .processing_mmp import MMPProcessor

EXACT_UP_TO = 1_000_000
"""Rows to which `engine="auto"` stays exact: a scan of a million by 256 takes about 0.1 CPU seconds."""


class VideoIndex:
    """A collection of videos, or of their moments, that can be searched in every language of the model.

    One file holds all of it; `load` maps the file, so only what a search reads takes memory. The same calls work with
    every engine:

    - `"exact"`: compares a query with every vector; needs only torch.
    - `"faiss"`: the nearest cells of an inverted file, re-ranked by the stored vectors; needs `polyvid[search]`.
    - `"lance"`: a LanceDB table in a folder, in an object store that many machines read, or in its cloud; likewise.
    - others that installed packages declare; see `index_engines_mmp`.

    The model is not told the language of a query. `lang` in a search filters the videos: it keeps those whose metadata
    `language` is that.

    Args:
        video_embeds: (rows, embed_dim); stored with length 1.
        video_ids: a name for each row or, with `spans`, for each video.
        spans: for moments: for each video the (first second, end) of its rows, in order.
        metadata: `{video_id: {column: number or text}}` to filter by, such as category, duration or upload_date.
        storage: `"float16"`, `"float32"` or `"int8"`: 2, 4 or 1 bytes for each of embed_dim.

    Raises:
        PolyvidError: if ids and embeddings do not fit, there is no video, an id is repeated or a vector is not finite.

    Example:

    ```python
    index = VideoIndex.build("outputs/demo/mmp", {"v1": features_1, "v2": features_2})
    index.search("ein Hund spielt", k=1)  # [{'video_id': 'v2', 'score': 0.61}]
    index.save("videos.safetensors")
    ```
    """

    def __init__(
        self,
        video_embeds: torch.Tensor,
        video_ids: Iterable[str],
        *,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
        metadata: Mapping[str, Mapping[str, object]] | None = None,
        storage: str = "float16",
    ):
        self._set(exact_engine(video_embeds, video_ids, spans, metadata, storage))

    def _set(
        self,
        engine: Engine,
        maker: Maker | None = None,
        moment_seconds: tuple[int, ...] = (),
        corrections: Corrections | None = None,
    ) -> VideoIndex:
        self.engine, self._maker, self._moment_seconds = engine, maker or Maker(), moment_seconds
        self.corrections = corrections or Corrections()
        return self

    def __repr__(self) -> str:
        rows = "moments" if "start" in self.engine.kinds else "videos"
        kept = self.engine.vectors.storage if self.engine.vectors is not None else self.engine.options.get("uri", "")
        made_by = f", made by {self.made_by!r}" if self.made_by else ""
        made_by += ", scores corrected for hubs" if self.corrections.hubs is not None else ""
        made_by += f", of features of {shown_encoders(self.video_encoders)}" if self.video_encoders else ""
        return f"VideoIndex({len(self):,} {rows} x {self.engine.embed_dim}, {self.engine.name} {kept}{made_by})"

    @property
    def made_by(self) -> str:
        """The model that made it: a Hub id or the path of a folder; "" if it was never saved."""
        return self._maker.name

    @property
    def video_encoders(self) -> Encoders | None:
        """Records of the networks behind the features, as in `provenance_mmp`; None if nobody knows."""
        return self._maker.video_encoders

    @property
    def other_encoders(self) -> bool:
        """Whether the model was made for features of other networks, which was allowed."""
        return self._maker.other_encoders

    @property
    def moment_seconds(self) -> tuple[int, ...]:
        """The lengths of its windows in seconds, from the shortest; none if it holds whole videos."""
        rows = self.engine.rows
        if self._moment_seconds or rows is None or rows.spans is None:
            return self._moment_seconds
        return (int((rows.spans[:, 1] - rows.spans[:, 0]).max()),)  # a file of an older version: it had one length

    @classmethod
    def build(
        cls,
        model: MMPModel | str | os.PathLike[str],
        features: Mapping[str, Any] | Sequence[Any],
        *,
        processor: MMPProcessor | None = None,
        metadata: Mapping[str, Mapping[str, object]] | None = None,
        moment_seconds: int | Sequence[int] | None = None,
        storage: str = "float16",
        engine: str = "auto",
        progress: bool = False,
        encoders: Encoders | None = None,
        allow_other_encoders: bool = False,
        **options: Any,
    ) -> VideoIndex:
        """Embeds a collection of videos.

        Args:
            model: an [`MMPModel`], or the folder or Hub id of one.
            features: `{video_id: [seconds, video_feature_dim]}`, numpy or torch, or a sequence named by position. Or
                videos: paths and what else [`MMPProcessor`] takes.
            processor: default: the one saved with the model.
            metadata, storage: as for [`VideoIndex`].
            moment_seconds: None stores one vector per video. A number stores one for each second: that of the
                `moment_seconds` seconds which begin there (of the whole video if it is shorter), so that a search also
                finds when, and can be limited to a part of each video. A hit then has `start` and `end`. Several
                numbers, such as `(4, 8, 16)`, store windows of each of these lengths, those of length L every L // 4
                seconds: moments last differently.
            engine: `"exact"`, `"faiss"`, `"lance"`; `"auto"`: exact up to a million rows, above that faiss if
                installed.
            progress: show a bar.
            encoders: records of the networks that made the features, as in `provenance_mmp`. Default: nobody knows
                better, so those that the model was made for.
            allow_other_encoders: take features of other networks than those; the index will say so.
            options: of the engine, as in its `from_exact`.

        Raises:
            PolyvidError: for features that cannot be embedded (the video is named) or of networks that the model was
                not made for, an empty collection, bad options.
            ImportError: if the engine is not installed.
            OSError: if there is no such model.
        """
        lengths = window_lengths(moment_seconds)
        check_storage(storage)  # everything that can be checked, before hours of work
        if engine != "auto":
            engine_factory(engine, options)
        model, processor = load_towers(model, processor)
        maker = Maker.of(model, processor, encoders, allow_other_encoders)
        index = cls._embedded(maker, features, metadata, lengths, storage, progress)
        return index.with_engine(engine, **options)

    @classmethod
    def _embedded(
        cls,
        maker: Maker,
        features: Mapping[str, Any] | Sequence[Any],
        metadata: Mapping[str, Mapping[str, object]] | None,
        lengths: tuple[int, ...],
        storage: str,
        progress: bool,
    ) -> VideoIndex:
        """An exact index of features; the arguments are those of `build`, and the lengths of the windows."""
        found = embed(maker, features, lengths, progress)
        engine = exact_engine(*found, metadata, storage)
        return cls.__new__(cls)._set(engine, maker, lengths)

    @classmethod
    def cat(cls, parts: Sequence[VideoIndex], metadata: Mapping[str, Mapping[str, object]] | None = None) -> VideoIndex:
        """One exact index of several that were made by one model in the same way.

        Args:
            parts: the indexes; their own metadata is dropped.
            metadata: of all their videos, as for [`VideoIndex`].

        Raises:
            PolyvidError: without parts, if a part is in a database, for parts that do not fit (of another width, model
                or storage, videos mixed with moments), and for a video that is in two of them.
        """
        if not parts:
            raise PolyvidError("There is no index to join.")
        first = parts[0]
        stored = [part._stored() for part in parts]
        for number, part in enumerate(parts):
            if part._kind() != first._kind() or not part._maker.made_the_same(first._maker):
                raise PolyvidError(
                    "Indexes can be joined if one model made them in the same way, but index 0 is "
                    f"{first!r} and index {number} is {part!r}."
                )
        return cls.__new__(cls)._set(joined(stored, metadata), first._maker, first._moment_seconds)

    def _kind(self) -> tuple[object, ...]:
        """What must be the same in indexes that are joined."""
        vectors, _ = self._stored()
        return vectors.storage, self.engine.embed_dim, "start" in self.engine.kinds, self._moment_seconds

    def _stored(self) -> tuple[StoredVectors, VideoRows]:
        """The vectors and rows that this index holds itself."""
        vectors, rows = self.engine.vectors, self.engine.rows
        if vectors is None or rows is None:
            raise PolyvidError(f"The vectors of this index are in {self.engine.options}: build or load it from a file.")
        return vectors, rows

    def with_engine(self, name: str, **options: Any) -> VideoIndex:
        """The same collection, searched by another engine. `"lance"` writes it into a table, or adds it to one.

        Raises:
            PolyvidError: for an unknown engine or option, and for an index whose vectors are in a database already.
            ImportError: if the engine is not installed.
        """
        self._stored()
        without = None
        if name == "auto":
            name, without = ("faiss", "exact") if len(self) > EXACT_UP_TO else ("exact", None)
        engine = engine_factory(name, options, without)(self.engine, **options)
        if engine.rows is None and self.corrections.hubs is not None:
            raise PolyvidError(f"Engine {name!r} keeps the videos elsewhere, so their scores cannot be corrected here.")
        return self.__new__(type(self))._set(engine, self._maker, self._moment_seconds, self.corrections)

    def correct_hubness(
        self,
        bank: Sequence[str] | Mapping[str, Sequence[str]] | torch.Tensor,
        beta: float = BETA,
        gated: bool = True,
        about: str = "",
    ) -> None:
        """Corrects the scores of all searches for videos that are near every query (QB-Norm), see `hubness_mmp`.

        One number a video is kept in the index. A moment gets that of its video.

        Args:
            bank: texts that stand for queries, such as training captions: a list, or language → texts, from which the
                offsets of languages are subtracted where the index has them. Or embeddings, (texts, embed_dim). Never
                the queries of a test.
            beta: 20 as published.
            gated: correct only queries whose nearest video is also that of a text of the bank, as published.
            about: what is told of the bank.

        Raises:
            PolyvidError: for an empty bank, embeddings of another width, a beta that is not positive, or an index whose
                vectors are in a database.
            OSError: if the model that made the index is not available.
        """
        vectors, rows = self._stored()
        if not len(bank) or not beta > 0:
            raise PolyvidError(f"The query bank needs at least one text, and beta must be greater than 0; got {beta}.")
        if isinstance(bank, Mapping):
            embeds = torch.cat(
                [self.corrections.moved(self._encoded(list(texts)), language) for language, texts in bank.items()]
            )
        else:
            embeds = bank if isinstance(bank, torch.Tensor) else self._encoded(list(bank))
        if embeds.ndim != 2 or embeds.shape[1] != self.engine.embed_dim or not embeds.isfinite().all():
            raise PolyvidError(f"The query bank has embeddings {tuple(embeds.shape)}, the index {self!r}.")
        hubs = hubs_of(vectors, rows, embeds.detach().to("cpu", torch.float32), beta, gated)
        self.corrections = Corrections(hubs, self.corrections.offsets, about)

    def correct_languages(self, texts: Mapping[str, Sequence[str]], about: str = "") -> None:
        """Keeps the offset of each language from English, which `search(..., query_language=)` subtracts.

        Args:
            texts: language → texts, best the same in all of them; with `en`.
            about: what is told of them.

        Raises:
            PolyvidError: without texts in English and in another language, or after `correct_hubness`, whose numbers
                would not fit any more.
            OSError: if the model that made the index is not available.
        """
        if self.corrections.hubs is not None:
            raise PolyvidError("Correct languages before hubness, which is measured with corrected texts.")
        if "en" not in texts or len(texts) < 2 or not all(len(of) for of in texts.values()):
            raise PolyvidError(f"Offsets need texts in en and in another language; got {' '.join(texts) or 'none'}.")
        offsets = language_offsets({language: self._encoded(list(of)) for language, of in texts.items()})
        self.corrections = Corrections(None, offsets, about)

    def _encoded(self, texts: list[str]) -> torch.Tensor:
        model, processor = self._maker.towers()
        return model.encode_texts(texts, processor)

    def add(
        self,
        videos: Mapping[str, Any] | VideoIndex,
        *,
        metadata: Mapping[str, Mapping[str, object]] | None = None,
        progress: bool = False,
    ) -> None:
        """Adds videos, in whatever way this index was made: by its model, as whole videos or windows. Changes it in
        place; the file it came from changes when it is saved, a database at once.

        Args:
            videos: `{video_id: features or video}` as in `build`, or an index that was made in the same way. A video
                that this index has already is replaced.
            metadata: of these videos, as for [`VideoIndex`]; that of an index comes with it.
            progress: show a bar.

        Raises:
            PolyvidError: for features that cannot be embedded (the video is named), an index that was made in another
                way, and metadata or an engine that does not allow it. Then nothing was added.
            OSError: if the model that made this index is not available.
        """
        self.check_grows()
        if isinstance(videos, Mapping):
            if not videos:
                return
            storage = "float16" if self.engine.vectors is None else self.engine.vectors.storage
            part = self._embedded(self._maker, videos, metadata, self.moment_seconds, storage, progress)
        else:
            part = videos
            kinds = [("start" in index.engine.kinds, index.engine.embed_dim) for index in (self, part)]
            lengths_differ = self._moment_seconds != part._moment_seconds
            if kinds[0] != kinds[1] or lengths_differ or not part._maker.made_the_same(self._maker):
                raise PolyvidError(f"One model must have made both indexes in the same way: {self!r} and {part!r}.")
        exact = ExactEngine(*part._stored())
        if self.engine.vectors is not None and exact.vectors.storage != self.engine.vectors.storage:
            exact = ExactEngine(StoredVectors.of(exact.vectors[:], self.engine.vectors.storage), exact.rows)
        known = self.engine.kinds
        if clash := sorted(name for name, kind in exact.kinds.items() if known.get(name, kind) is not kind):
            raise PolyvidError(f"Metadata {clash[0]!r} must be numbers or texts, and the same for all videos.")
        self.engine.add(exact)

    def check_grows(self) -> None:
        """Checks that videos can be added.

        Raises:
            PolyvidError: for an index that corrects for hubs.
        """
        if self.corrections.hubs is not None:
            raise PolyvidError(
                "This index corrects the scores of the videos it has, and new ones would have no such number: build it "
                "again with them, or add to an index without --hubness."
            )

    def remove(self, video_ids: Iterable[str]) -> None:
        """Removes videos, with all of their moments, in place; see `add`.

        Raises:
            PolyvidError: for a video that is not in the index, or if none would be left. Then nothing was removed.
        """
        gone = {video_ids} if isinstance(video_ids, str) else set(video_ids)
        before = [] if self.corrections.hubs is None else list(self.video_ids)
        self.engine.remove(gone)
        if before:
            kept = [position for position, name in enumerate(before) if name not in gone]
            self.corrections = self.corrections.of_videos(torch.tensor(kept))

    def __len__(self) -> int:
        """Rows: videos, or moments."""
        return len(self.engine)

    @property
    def video_ids(self) -> Sequence[str]:
        """The ids of the videos, in order, of an index that holds its vectors itself."""
        return self._stored()[1].video_ids

    def search(
        self,
        query: str | Sequence[str] | torch.Tensor,
        k: int = 10,
        lang: str | None = None,
        where: Mapping[str, object] | None = None,
        seconds: tuple[float | None, float | None] | None = None,
        one_per_video: bool = False,
        max_overlap: float = 0.0,
        query_language: str | None = None,
        corrected: bool = True,
    ) -> Any:
        """The `k` nearest videos or moments, best first.

        Args:
            query: a text in any language, a list of texts, or embeddings of texts or videos, (embed_dim,) or
                (queries, embed_dim).
            k: how many.
            lang: only videos whose metadata `language` is this.
            where: only videos with this metadata: `{"category": "sport", "duration": (10, 60), "year": [2018, 2019]}`
                is a value, a range with both ends (None leaves one open), and one of several. Dates as ISO texts.
            seconds: (a, b), only moments that lie between second a and second b of their video.
            one_per_video: only the best moment of each video.
            max_overlap: of two moments of a video that overlap by more than this intersection over union, only the
                better one is found; 1 lets the neighbours of one good moment fill the list.
            query_language: of the queries, to subtract its offset (`correct_languages`).
            corrected: False searches by the cosine alone, whatever the index could correct, and however long windows
                are.

        Returns:
            For each query a list of `{"video_id", "score"}`, the score being the cosine, less the number of the video
            if it was corrected for hubs, plus a little for longer windows if the index has several lengths (see
            `moments_mmp`); of moments also `start` and `end`, of videos with metadata also `metadata`. For a single
            query the list itself. Fewer than `k` where there are fewer, or the filters leave fewer.

        Raises:
            PolyvidError: for a query that is empty or in a script that the model does not know, for a model or width
                that is not the index's, and for filters it cannot apply.
            OSError: if the model that made the index is not available.
        """
        if k < 1:
            raise PolyvidError(f"k must be at least 1, got {k}.")
        filters = conditions(self.engine.kinds, lang, where, seconds)
        if not isinstance(query, torch.Tensor):
            texts = [query] if isinstance(query, str) else list(query)
            embeds = self._encoded(texts)
            check_readable(texts, self._maker.towers()[1])
        else:
            embeds = query[None] if query.ndim == 1 else query
        if embeds.ndim != 2 or embeds.shape[1] != self.engine.embed_dim:
            raise PolyvidError(
                f"The index was made by another model: its embeddings are ({len(self)}, {self.engine.embed_dim}), "
                f"the queries' {tuple(embeds.shape)}."
            )
        embeds = F.normalize(embeds.detach().to("cpu", torch.float32), dim=-1)
        if corrected and query_language is not None:
            self.corrections.check_language(query_language)
            embeds = self.corrections.moved(embeds, query_language)
        found = find(
            self.engine,
            embeds,
            k,
            filters,
            corrections=self.corrections if corrected else Corrections(),
            moment_seconds=self.moment_seconds if corrected else (),
            one_per_video=one_per_video,
            max_overlap=max_overlap,
        )
        return found[0] if isinstance(query, str) or (isinstance(query, torch.Tensor) and query.ndim == 1) else found

    def towers(self) -> tuple[MMPModel, MMPProcessor]:
        """The model that reads queries and its processor, loaded when first needed.

        Raises:
            PolyvidError: if it is unknown, or not the model that made the index.
            OSError: if it is not where the index says.
        """
        return self._maker.towers()

    def read_queries_with(self, model: Any, processor: Any) -> None:
        """Takes this model instead of loading the one that made the index.

        Args:
            model: what has `encode_texts(texts, processor)`, `config` and `name_or_path` as the model has.
            processor: its processor, or what has a `tokenizer` as that has.

        Raises:
            PolyvidError: if it is not the model that made the index.
        """
        self._maker.read_with(model, processor)

    def check_model(self, model: MMPModel, processor: MMPProcessor) -> None:
        """Checks that `model` made the index: the answers of another one would mean nothing.

        Raises:
            PolyvidError: if it did not, or was made for features of other networks.
        """
        self._maker.check(model, processor)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to one file, which appears whole or not at all. Of a database, only its address is written.

        The file names the model by its Hub id, or by its path relative to the file.

        Raises:
            OSError: if it cannot be written. A file of this name stays as it was.
        """
        write_parts(path, self._parts(), Path(path).parent)

    def _parts(self) -> Parts:
        return Parts(self.engine, self._maker, self._moment_seconds, self.corrections)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: MMPModel | str | None = None,
        processor: MMPProcessor | None = None,
        revision: str | None = None,
        verify: bool = True,
    ) -> VideoIndex:
        """Opens what `save` or `push_to_hub` wrote; vectors are mapped from the file, not read into memory.

        Args:
            path: of the file, or the Hub id of a dataset that holds one.
            model: reads the queries; default: the model that made the index, loaded when first needed.
            processor: of the model; default: the one saved with it.
            revision: of the Hub repository.
            verify: compare the file with its checksums, which reads all of it once. Whatever this is, offsets and codes
                that are out of range are refused.

        Raises:
            PolyvidError: if the file does not exist, is not an index or is damaged, or if the model has another width.
            ImportError: if the index is in a database whose engine is not installed.
            OSError: if the Hub does not have it.
        """
        return cls.__new__(cls)._set(*read_parts(path, model, processor, revision, verify))

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, revision: str | None = None, token: str | None = None
    ) -> str:
        """Uploads the index to a dataset repository, which `load(repo_id)` opens; returns the commit's URL.

        Raises:
            OSError: what the Hub answers, for example to a wrong token.
        """
        return push_parts(repo_id, self._parts(), index_card(self, repo_id), private, revision, token)
