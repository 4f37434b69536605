"""A collection of videos to search with words: [`VideoIndex`]."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi, hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from .errors_mmp import PolyvidError
from .index_engines_mmp import ExactEngine, engine_class
from .index_rows_mmp import Texts, VideoRows, conditions
from .index_vectors_mmp import StoredVectors, check_storage
from .modeling_mmp import MMPModel
from .processing_mmp import MMPProcessor

FILE = "videos.safetensors"
FORMAT = "mmp_video_index"
EXACT_UP_TO = 1_000_000
"""Rows to which `engine="auto"` stays exact: a scan of a million by 256 takes about 0.1 CPU seconds."""
PROBE = "a person talks to the camera"
QUERIES_AT_ONCE = 1024


class VideoIndex:
    """A collection of videos, or of their moments, that answers queries in every language of the model.

    One file holds it all; `load` maps it, so a collection takes memory only as far as it is read. The same calls work
    whichever engine searches:

    - `"exact"`: every vector, with torch alone.
    - `"faiss"`: the nearest cells of an inverted file, re-ranked by the stored vectors; needs `polyvid[search]`.
    - `"lance"`: a LanceDB table, in a folder, in an object store that many machines read, or in its cloud; likewise.

    The model decides which texts and videos are alike and is told no language, so `lang` in a search is no property of
    the query: it keeps to videos whose metadata `language` is that.

    Args:
        video_embeds: (rows, embed_dim) of any length; kept at length 1.
        video_ids: a name for each row or, with `spans`, for each video.
        spans: for moments: for each video the (first second, end) of its rows, in order.
        metadata: `{video_id: {column: number or text}}` to filter by, such as category, duration or upload_date.
        storage: `"float16"`, `"float32"` or `"int8"`: 2, 4 or 1 bytes for each of embed_dim.

    Raises:
        PolyvidError: where ids and embeddings do not fit, there is no video, an id is repeated, a vector is not finite.

    Example:

    ```python
    >>> index = VideoIndex.build("outputs/demo/mmp", {"v1": features_1, "v2": features_2})
    >>> index.search("ein Hund spielt", k=1)
    [{'video_id': 'v2', 'score': 0.61}]
    >>> index.save("videos.safetensors")
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

    def _set(self, engine, model=None, processor=None, made_by: str = "", probe: torch.Tensor | None = None):
        self.engine, self.made_by, self._probe = engine, made_by, probe
        self._model, self._processor, self._checked = model, processor, None
        return self

    @classmethod
    def build(
        cls,
        model: MMPModel | str,
        features: Mapping[str, object] | Sequence,
        *,
        processor: MMPProcessor | None = None,
        metadata: Mapping[str, Mapping[str, object]] | None = None,
        moment_seconds: int | None = None,
        storage: str = "float16",
        engine: str = "auto",
        progress: bool = False,
        **options,
    ) -> VideoIndex:
        """Embeds a collection of videos.

        Args:
            model: an [`MMPModel`], or the folder or Hub id of one.
            features: `{video_id: [seconds, video_feature_dim]}`, numpy or torch, or a sequence named by position.
            processor: default: the one saved with the model.
            metadata, storage: as for [`VideoIndex`].
            moment_seconds: None keeps one vector a video. A number keeps one for each second: that of the
                `moment_seconds` seconds which begin there (of all, if the video is shorter), so that a search finds
                when, and can keep to a part of the videos. A hit then has `start` and `end`.
            engine: `"exact"`, `"faiss"`, `"lance"`; `"auto"` is exact to a million rows, above that faiss if installed.
            progress: show a bar.
            options: of the engine; see `polyvid.train.search.engines`.

        Raises:
            PolyvidError: for features that cannot be embedded (the video is named), an empty collection, bad options.
            ImportError: if the engine is not installed.
        """
        if moment_seconds is not None and moment_seconds < 1:
            raise PolyvidError(f"moment_seconds must be at least 1, got {moment_seconds}.")
        check_storage(storage)  # all that can be wrong, before hours of work
        if engine != "auto":
            _engine_factory(engine, options)
        model, processor = _load(model, processor)
        names = _unique(features if isinstance(features, Mapping) else range(len(features)))
        videos = features.values() if isinstance(features, Mapping) else features
        clips, spans, owners = [], [], []
        for name, video in zip(names, videos, strict=True):
            starts = range(1 if moment_seconds is None else max(1, len(video) - moment_seconds + 1))
            length = moment_seconds or len(video)
            spans.append([(start, min(start + length, len(video))) for start in starts])
            clips += [video[start : start + length] for start in starts]
            owners += [name] * len(starts)
        embeds = model.encode_videos(clips, processor, names=owners, progress=progress)
        index = cls(embeds, names, spans=None if moment_seconds is None else spans, metadata=metadata, storage=storage)
        index._set(index.engine, model, processor, model.name_or_path, _probe(model, processor))
        return index.with_engine(engine, **options)

    @classmethod
    def cat(cls, parts: Sequence[VideoIndex], metadata: Mapping[str, Mapping[str, object]] | None = None) -> VideoIndex:
        """One exact index of several that one model made in one way; their metadata is given anew."""
        rows = VideoRows.cat([part.engine.rows for part in parts])
        _unique(rows.video_ids)
        if metadata:
            rows = rows.with_metadata(metadata)
        engine = ExactEngine(StoredVectors.cat([part.engine.vectors for part in parts]), rows)
        first = parts[0]
        return cls.__new__(cls)._set(engine, first._model, first._processor, first.made_by, first._probe)

    def with_engine(self, name: str, **options) -> VideoIndex:
        """The same collection, searched by another engine. `"lance"` writes it into a table, or adds it to one.

        Raises:
            PolyvidError: for an unknown engine or option, and for an index whose vectors are in a database already.
            ImportError: if the engine is not installed.
        """
        if not isinstance(getattr(self.engine, "vectors", None), StoredVectors):
            raise PolyvidError(f"The vectors of this index are in {self.engine.options}: build or load it from a file.")
        without = None
        if name == "auto":
            name, without = ("faiss", "exact") if len(self) > EXACT_UP_TO else ("exact", None)
        engine = _engine_factory(name, options, without)(self.engine, **options)
        return self.__new__(type(self))._set(engine, self._model, self._processor, self.made_by, self._probe)

    def __len__(self) -> int:
        """Rows: videos, or moments."""
        return len(self.engine)

    @property
    def video_ids(self) -> Sequence[str]:
        """Of an index that is kept in a file."""
        return self.engine.rows.video_ids

    def search(
        self,
        query: str | Sequence[str] | torch.Tensor,
        k: int = 10,
        lang: str | None = None,
        where: Mapping[str, object] | None = None,
        seconds: tuple[float | None, float | None] | None = None,
        one_per_video: bool = False,
    ) -> list[dict] | list[list[dict]]:
        """The `k` nearest videos or moments, best first.

        Args:
            query: a text in any language, a list of texts, or embeddings of texts or videos, (embed_dim,) or
                (queries, embed_dim).
            k: how many.
            lang: only videos whose metadata `language` is this.
            where: only videos with this metadata: `{"category": "sport", "duration": (10, 60), "year": [2018, 2019]}`
                is a value, a range with both ends (None leaves one open), and one of several. Dates as ISO texts.
            seconds: (a, b), only moments that lie between second a and second b of their video.
            one_per_video: of each video only its best moment; neighbours of one good moment would fill the list.

        Returns:
            For each query a list of `{"video_id", "score"}`, the score being the cosine; of moments also `start` and
            `end`, of videos with metadata also `metadata`. For a single query the list itself. Fewer than `k` where
            there are fewer, or the filters leave fewer.

        Raises:
            PolyvidError: for an empty query, a model or width that is not the index's, and filters it cannot apply.
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

    def _best_moments(self, queries: torch.Tensor, k: int, filters: Sequence) -> list[list[dict]]:
        """The nearest moments of `k` different videos: asks for more moments until so many are among them."""
        if hasattr(self.engine, "rows"):  # a database does not say how many videos it holds
            k = min(k, len(self.video_ids))
        best: list[list[dict]] = [[] for _ in queries]
        short, wanted = list(range(len(queries))), k
        while short:
            still_short = []
            for query, hits in zip(short, self.engine.nearest(queries[short], wanted, filters), strict=True):
                of_video: dict[str, dict] = {}
                for hit in hits:
                    of_video.setdefault(hit["video_id"], hit)
                best[query] = list(of_video.values())[:k]
                if len(best[query]) < k and len(hits) == wanted:
                    still_short.append(query)
            short, wanted = still_short, 4 * wanted
        return best

    def _towers(self) -> tuple[MMPModel, MMPProcessor]:
        """The model that reads queries: the one given, or the one the index says it was made by."""
        if not (self._model or self.made_by):
            raise PolyvidError("To search with texts, this index needs its model: VideoIndex.load(path, model=...).")
        self._model, self._processor = _load(self._model or self.made_by, self._processor)
        self.check_model(self._model, self._processor)
        return self._model, self._processor

    def check_model(self, model: MMPModel, processor: MMPProcessor) -> None:
        """Raises a ValueError if another model than this made the index: its answers would mean nothing."""
        if self._probe is None or self._checked is model:
            return
        probe = _probe(model, processor)
        # Another model is far from 1; half precision stays above 0.99.
        if len(probe) != len(self._probe) or F.cosine_similarity(probe, self._probe, dim=0) < 0.99:
            raise PolyvidError(
                f"The index was made by another model, {self.made_by or 'one without a name'}: "
                f"{model.name_or_path or 'this one'} reads texts differently. Use that one, or build the index again."
            )
        self._checked = model

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index to one file, which appears whole or not at all. Of a database, its address is written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.incomplete")
        about = {"engine": self.engine.name, "options": self.engine.options, "model": self.made_by}
        tensors = self.engine.tensors() | ({} if self._probe is None else {"probe": self._probe})
        try:
            # One entry: several come in any order, and the same index should be the same bytes.
            save_file(tensors, part, {FORMAT: json.dumps(about, ensure_ascii=False)})
            part.chmod(0o644)  # safetensors lets nobody else read
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"Could not write {path} ({error}). Nothing is left there; make room and save again."
            ) from error
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        model: MMPModel | str | None = None,
        processor: MMPProcessor | None = None,
        revision: str | None = None,
    ) -> VideoIndex:
        """Opens what `save` or `push_to_hub` wrote; vectors are mapped from the file, not read.

        Args:
            path: of the file, or the Hub id of a dataset that holds one.
            model: reads the queries; default: the model that made the index, loaded when first needed.
            revision: of the Hub repository.

        Raises:
            PolyvidError: if the file is not there or is not an index, or if the model has another width.
            OSError: if the Hub does not have it.
        """
        name, file = str(path), Path(path)
        if not file.exists() and name.count("/") == 1 and not name.endswith(".safetensors"):
            file = Path(hf_hub_download(name, FILE, repo_type="dataset", revision=revision))
        try:
            with safe_open(file, framework="pt") as opened:
                about = opened.metadata() or {}
                if FORMAT not in about:
                    raise PolyvidError("it holds other tensors")
                about = json.loads(about[FORMAT])
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise PolyvidError(f"{name!r} is not a video index that can be read: {error}") from error
        found = engine_class(about["engine"], without="exact" if "video_embeds" in tensors else None)
        try:
            engine = found.from_tensors(tensors, about["options"])
        except (KeyError, IndexError, RuntimeError) as error:
            raise PolyvidError(f"{name!r} is not a video index that can be read: {error}") from error
        width = getattr(getattr(model, "config", None), "embed_dim", engine.embed_dim)
        if width != engine.embed_dim:
            raise PolyvidError(
                f"{name!r} was made by another model: its embeddings are ({len(engine)}, {engine.embed_dim}), "
                f"the model's are {width} wide."
            )
        return cls.__new__(cls)._set(engine, model, processor, about["model"], tensors.get("probe"))

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, revision: str | None = None, token: str | None = None
    ) -> str:
        """Uploads the index to a dataset repository, which `load(repo_id)` opens; returns the commit's URL.

        Raises:
            OSError: what the Hub answers, such as for a wrong token.
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
        kept = getattr(self.engine, "vectors", None)
        facts = {
            "rows (videos, or moments of videos)": len(self),
            "embed_dim": self.engine.embed_dim,
            "storage": kept.storage if kept else f"in {self.engine.options}",
            "engine": self.engine.name,
            "made by": f"`{self.made_by}`" if self.made_by else "a model that was not saved",
            "metadata": ", ".join(sorted(self.engine.kinds)) or "none",
        }
        table = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
        return (
            "---\ntags:\n- text-to-video-retrieval\n- video-index\n---\n\n# Video index\n\n"
            "Embeddings and ids of videos, to search with words in any language of the model that made it.\n"
            f"It holds no videos.\n\n| | |\n|---|---|\n{table}\n\n"
            f'```python\nfrom polyvid.modeling import VideoIndex\n\nindex = VideoIndex.load("{repo_id}")\n'
            'index.search("ein Hund spielt", k=10)\n```\n'
        )


def _unique(video_ids: Iterable[str]) -> list[str]:
    names = [str(video_id) for video_id in video_ids]
    if not names:
        raise PolyvidError("The collection of videos is empty.")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        repeated = next(name for name in names if name in seen or seen.add(name))
        raise PolyvidError(f"Video id {repeated!r} stands twice in the collection.")
    return names


def _engine_factory(name: str, options: Mapping, without: str | None = None) -> Callable:
    """What makes an engine of an exact one; refuses options it does not have."""
    create = engine_class(name, without).from_exact
    try:
        inspect.signature(create).bind(None, **options)
    except TypeError as error:
        raise PolyvidError(f"Engine {name!r}: {error}.") from error
    return create


def _load(model: MMPModel | str, processor: MMPProcessor | None) -> tuple[MMPModel, MMPProcessor]:
    if isinstance(model, str | os.PathLike):
        model = MMPModel.from_pretrained(model, dtype="float32").eval()
    if processor is None:
        if not model.name_or_path:
            raise PolyvidError("Pass the processor too: the model was not loaded from a folder that has one.")
        processor = MMPProcessor.from_pretrained(model.name_or_path)
    return model, processor


def _probe(model: MMPModel, processor: MMPProcessor) -> torch.Tensor:
    """(embed_dim,) what the model makes of a certain text: by this an index knows its model again."""
    return model.encode_texts([PROBE], processor)[0]
