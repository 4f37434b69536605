"""A collection of videos to search with words: [`VideoIndex`]."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from torch.nn import functional as F

from .errors_mmp import PolyvidError
from .index_engines_mmp import Engine, ExactEngine, engine_class, engine_factory
from .index_file_mmp import read_index_file, write_index_file
from .index_rows_mmp import Condition, Texts, VideoRows, conditions
from .index_vectors_mmp import StoredVectors, check_storage
from .modeling_mmp import MMPModel
from .paths_mmp import check_local_path, is_local_path
from .processing_mmp import MMPProcessor
from .provenance_mmp import Encoders, checked_encoders, differing_keys, refuse_other_encoders, shown_encoders

FILE = "videos.safetensors"
EXACT_UP_TO = 1_000_000
"""Rows to which `engine="auto"` stays exact: a scan of a million by 256 takes about 0.1 CPU seconds."""
PROBE = "a person talks to the camera"
QUERIES_AT_ONCE = 1024


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
        names = _unique(video_ids)
        counts = [1] * len(names) if spans is None else [len(moments) for moments in spans]
        if video_embeds.ndim != 2 or len(counts) != len(names) or len(video_embeds) != sum(counts):
            raise PolyvidError(f"{len(names)} video ids do not fit embeddings {tuple(video_embeds.shape)}.")
        if not torch.isfinite(video_embeds).all():
            row = int((~torch.isfinite(video_embeds)).any(dim=-1).nonzero()[0])
            raise PolyvidError(f"Row {row} of the embeddings holds NaN or infinity.")
        rows = VideoRows(Texts.of(names), {})
        if spans is not None:
            videos = torch.arange(len(names), dtype=torch.int32).repeat_interleave(torch.tensor(counts))
            rows = VideoRows(rows.video_ids, {}, videos, torch.cat([torch.tensor(s, dtype=torch.int32) for s in spans]))
        if metadata:
            rows = rows.with_metadata(metadata)
        self._set(ExactEngine(StoredVectors.of(video_embeds, storage), rows))

    def _set(
        self,
        engine: Engine,
        model: MMPModel | str | None = None,
        processor: MMPProcessor | None = None,
        made_by: str = "",
        probe: torch.Tensor | None = None,
        checked: MMPModel | None = None,
        video_encoders: Encoders | None = None,
        other_encoders: bool = False,
    ) -> VideoIndex:
        self.engine, self.made_by, self._probe = engine, made_by, probe
        self.video_encoders, self.other_encoders = video_encoders, other_encoders
        self._model, self._processor, self._checked = model, processor, checked
        return self

    def __repr__(self) -> str:
        rows = "moments" if "start" in self.engine.kinds else "videos"
        kept = self.engine.vectors.storage if self.engine.vectors is not None else self.engine.options.get("uri", "")
        made_by = f", made by {self.made_by!r}" if self.made_by else ""
        made_by += f", of features of {shown_encoders(self.video_encoders)}" if self.video_encoders else ""
        return f"VideoIndex({len(self):,} {rows} x {self.engine.embed_dim}, {self.engine.name} {kept}{made_by})"

    @classmethod
    def build(
        cls,
        model: MMPModel | str | os.PathLike[str],
        features: Mapping[str, Any] | Sequence[Any],
        *,
        processor: MMPProcessor | None = None,
        metadata: Mapping[str, Mapping[str, object]] | None = None,
        moment_seconds: int | None = None,
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
            features: `{video_id: [seconds, video_feature_dim]}`, numpy or torch, or a sequence named by position.
            processor: default: the one saved with the model.
            metadata, storage: as for [`VideoIndex`].
            moment_seconds: None stores one vector per video. A number stores one for each second: that of the
                `moment_seconds` seconds which begin there (of the whole video if it is shorter), so that a search also
                finds when, and can be limited to a part of each video. A hit then has `start` and `end`.
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
        if moment_seconds is not None and moment_seconds < 1:
            raise PolyvidError(f"moment_seconds must be at least 1, got {moment_seconds}.")
        check_storage(storage)  # everything that can be checked, before hours of work
        if engine != "auto":
            engine_factory(engine, options)
        model, processor = _load(model, processor)
        expected = _encoders_of(model)
        if encoders is not None:
            advice = "pass features of those, or allow_other_encoders=True."
            name = model.name_or_path or "the model"
            refuse_other_encoders("The collection", encoders, name, expected, advice, allow_other_encoders)
        named = features if isinstance(features, Mapping) else dict(enumerate(features))
        names, videos = _unique(named), named.values()
        clips, spans, owners = [], [], []
        for name, video in zip(names, videos, strict=True):
            starts = range(1 if moment_seconds is None else max(1, len(video) - moment_seconds + 1))
            length = moment_seconds or len(video)
            spans.append([(start, min(start + length, len(video))) for start in starts])
            clips += [video[start : start + length] for start in starts]
            owners += [name] * len(starts)
        embeds = model.encode_videos(clips, processor, names=owners, progress=progress)
        index = cls(embeds, names, spans=None if moment_seconds is None else spans, metadata=metadata, storage=storage)
        index._set(
            index.engine,
            model,
            processor,
            model.name_or_path,
            _probe(model, processor),
            checked=model,
            video_encoders=encoders or expected,
            other_encoders=bool(encoders and expected and differing_keys(encoders, expected)),
        )
        return index.with_engine(engine, **options)

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
        vectors, rows = zip(*(part._stored() for part in parts), strict=True)
        for number, part in enumerate(parts):
            if part._kind() != first._kind():
                raise PolyvidError(
                    "Indexes can be joined if one model made them in the same way, but index 0 is "
                    f"{first!r} and index {number} is {part!r}."
                )
        joined = VideoRows.cat(rows)
        _unique(joined.video_ids)
        if metadata:
            joined = joined.with_metadata(metadata)
        engine = ExactEngine(StoredVectors.cat(vectors), joined)
        return cls.__new__(cls)._set(
            engine,
            first._model,
            first._processor,
            first.made_by,
            first._probe,
            checked=first._checked,
            video_encoders=first.video_encoders,
            other_encoders=first.other_encoders,
        )

    def _kind(self) -> tuple[object, ...]:
        """What must be the same in indexes that are joined."""
        vectors, rows = self._stored()
        return self.made_by, vectors.storage, self.engine.embed_dim, rows.videos is None, self.video_encoders

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
        return self.__new__(type(self))._set(
            engine,
            self._model,
            self._processor,
            self.made_by,
            self._probe,
            self._checked,
            self.video_encoders,
            self.other_encoders,
        )

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
            one_per_video: only the best moment of each video; otherwise the neighbours of one good moment can fill the
                list.

        Returns:
            For each query a list of `{"video_id", "score"}`, the score being the cosine; of moments also `start` and
            `end`, of videos with metadata also `metadata`. For a single query the list itself. Fewer than `k` where
            there are fewer, or the filters leave fewer.

        Raises:
            PolyvidError: for an empty query, a model or width that is not the index's, and filters it cannot apply.
            OSError: if the model that made the index is not available.
        """
        if k < 1:
            raise PolyvidError(f"k must be at least 1, got {k}.")
        filters = conditions(self.engine.kinds, lang, where, seconds)
        if not isinstance(query, torch.Tensor):
            texts = [query] if isinstance(query, str) else list(query)
            model, processor = self._towers()
            embeds = model.encode_texts(texts, processor)
        else:
            embeds = query[None] if query.ndim == 1 else query
        if embeds.ndim != 2 or embeds.shape[1] != self.engine.embed_dim:
            raise PolyvidError(
                f"The index was made by another model: its embeddings are ({len(self)}, {self.engine.embed_dim}), "
                f"the queries' {tuple(embeds.shape)}."
            )
        embeds = F.normalize(embeds.detach().to("cpu", torch.float32), dim=-1)
        found = []
        nearest = self._best_moments if one_per_video else self.engine.nearest
        for part in embeds.split(QUERIES_AT_ONCE):
            found += nearest(part, k, filters)
        return found[0] if isinstance(query, str) or (isinstance(query, torch.Tensor) and query.ndim == 1) else found

    def _best_moments(self, queries: torch.Tensor, k: int, filters: Sequence[Condition]) -> list[list[dict[str, Any]]]:
        """The nearest moments of `k` different videos: asks for more moments until `k` videos are among them."""
        if self.engine.rows is not None:  # a database does not say how many videos it holds
            k = min(k, len(self.engine.rows.video_ids))
        best: list[list[dict[str, Any]]] = [[] for _ in queries]
        short, wanted = list(range(len(queries))), k
        while short:
            still_short = []
            for query, hits in zip(short, self.engine.nearest(queries[short], wanted, filters), strict=True):
                of_video: dict[str, dict[str, Any]] = {}
                for hit in hits:
                    of_video.setdefault(hit["video_id"], hit)
                best[query] = list(of_video.values())[:k]
                if len(best[query]) < k and len(hits) == wanted:
                    still_short.append(query)
            short, wanted = still_short, 4 * wanted
        return best

    def _towers(self) -> tuple[MMPModel, MMPProcessor]:
        """The model that reads queries: the one given, or the one the index says it was made by."""
        named = self._model or self.made_by
        if not named:
            raise PolyvidError("To search with texts, this index needs its model: VideoIndex.load(path, model=...).")
        model, processor = _load(named, self._processor)
        self._model, self._processor = model, processor
        self.check_model(model, processor)
        return model, processor

    def check_model(self, model: MMPModel, processor: MMPProcessor) -> None:
        """Checks that `model` made the index: the answers of another one would mean nothing.

        Raises:
            PolyvidError: if it did not, or was made for features of other networks.
        """
        if self._checked is model:
            return
        expected = _encoders_of(model)
        if self.video_encoders is not None and expected is not None and not self.other_encoders:
            name = model.name_or_path or "this model"
            advice = "use the model that made the index, or build it again."
            refuse_other_encoders("The index", self.video_encoders, name, expected, advice)
        if self._probe is None:
            return
        probe = _probe(model, processor)
        # Another model is far from 1; half precision stays above 0.99.
        if len(probe) != len(self._probe) or not F.cosine_similarity(probe, self._probe, dim=0) >= 0.99:
            raise PolyvidError(
                f"The index was made by another model, {self.made_by or 'one without a name'}: "
                f"{model.name_or_path or 'this one'} reads texts differently. Use that model, or build the index again."
            )
        self._checked = model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to one file, which appears whole or not at all. Of a database, only its address is written.

        Raises:
            OSError: if it cannot be written. A file of this name stays as it was.
        """
        about: dict[str, Any] = {"engine": self.engine.name, "options": self.engine.options, "model": self.made_by}
        if self.video_encoders is not None:
            about |= {"video_encoders": self.video_encoders, "other_encoders": self.other_encoders}
        probe = {} if self._probe is None else {"probe": self._probe}
        write_index_file(path, {**self.engine.tensors(), **probe}, about)

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
        name, file = os.fspath(path), Path(path)
        if not is_local_path(path):
            file = Path(hf_hub_download(name, FILE, repo_type="dataset", revision=revision))
        try:
            tensors, about = read_index_file(file, verify)
            found = engine_class(about["engine"], without="exact" if "video_embeds" in tensors else None)
            engine = found.from_tensors(tensors, about["options"])
            encoders = checked_encoders(about.get("video_encoders"), "its video_encoders")
            probe = tensors.get("probe")
            if probe is not None and (probe.dtype, probe.shape) != (torch.float32, (engine.embed_dim,)):
                raise PolyvidError(f"its probe is {probe.dtype} {tuple(probe.shape)}")
        except (OSError, ValueError) as error:  # an engine's PolyvidError may come from another copy of this code
            raise PolyvidError(f"{name!r} is not a video index that can be read: {error}") from error
        width = getattr(getattr(model, "config", None), "embed_dim", engine.embed_dim)
        if width != engine.embed_dim:
            raise PolyvidError(
                f"{name!r} was made by another model: its embeddings are ({len(engine)}, {engine.embed_dim}), "
                f"the model's are {width} wide."
            )
        loaded = cls.__new__(cls)
        others = about.get("other_encoders", False)
        return loaded._set(
            engine, model, processor, about["model"], probe, video_encoders=encoders, other_encoders=others
        )

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, revision: str | None = None, token: str | None = None
    ) -> str:
        """Uploads the index to a dataset repository, which `load(repo_id)` opens; returns the commit's URL.

        Raises:
            OSError: what the Hub answers, for example to a wrong token.
        """
        api = HfApi(token=token)
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder, FILE))
            Path(folder, "README.md").write_text(self._card(repo_id), encoding="utf-8")
            message = f"Index of {len(self)} rows"
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, repo_type="dataset", revision=revision, commit_message=message
            )
        return commit.commit_url

    def _card(self, repo_id: str) -> str:
        kept = self.engine.vectors
        facts: dict[str, object] = {
            "rows (videos, or moments of videos)": len(self),
            "embed_dim": self.engine.embed_dim,
            "storage": f"in {self.engine.options}" if kept is None else kept.storage,
            "engine": self.engine.name,
            "made by": f"`{self.made_by}`" if self.made_by else "a model that was not saved",
            "video features of": shown_encoders(self.video_encoders) if self.video_encoders else "not recorded",
            "metadata": ", ".join(sorted(self.engine.kinds)) or "none",
        }
        table = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
        return (
            "---\ntags:\n- text-to-video-retrieval\n- video-index\n---\n\n# Video index\n\n"
            "Embeddings and ids of videos, to search with words in any language of the model that made it.\n"
            f"The videos themselves are not included.\n\n| | |\n|---|---|\n{table}\n\n"
            f'```python\nfrom polyvid.modeling import VideoIndex\n\nindex = VideoIndex.load("{repo_id}")\n'
            'index.search("ein Hund spielt", k=10)\n```\n'
        )


def _unique(video_ids: Iterable[object]) -> list[str]:
    names = [str(video_id) for video_id in video_ids]
    if not names:
        raise PolyvidError("The collection of videos is empty.")
    if len(set(names)) < len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise PolyvidError(f"Video id {repeated!r} appears twice in the collection.")
    return names


def _load(model: MMPModel | str | os.PathLike[str], processor: MMPProcessor | None) -> tuple[MMPModel, MMPProcessor]:
    loaded: Any = model  # a model of another copy of this code is one, too
    if isinstance(model, str | os.PathLike):
        check_local_path(model, "model")
        loaded = MMPModel.from_pretrained(model, dtype="float32").eval()
    if processor is None:
        if not loaded.name_or_path:
            raise PolyvidError("Pass the processor too: the model was not loaded from a folder that has one.")
        processor = MMPProcessor.from_pretrained(loaded.name_or_path)
    return loaded, processor


def _encoders_of(model: MMPModel) -> Encoders | None:
    """Records of the networks that the model was made for; an older copy of this code has none."""
    encoders: Encoders | None = getattr(model.config, "video_encoders", None)
    return encoders


def _probe(model: MMPModel, processor: MMPProcessor) -> torch.Tensor:
    """(embed_dim,) what the model makes of a fixed text: this is how an index recognises its model."""
    return model.encode_texts([PROBE], processor)[0]
