"""The files a run writes. Each folder is written under a temporary name and then renamed.

output_dir/                          the selected model as a Hub repository, when the run is finished
output_dir/steps.jsonl               loss terms, gradient norm and learning rate of every step
output_dir/checkpoints/best/         the selected model as of the newest checkpoint, also a repository
output_dir/checkpoints/step-00001200/   a `TrainingState`: a repository plus best.pt (trained weights of the selected
                                        model), optimizer.pt, progress.pt and processes.pt

The folders of models and checkpoints have checksums of their files (`polyvid.train.checksums`).
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from polyvid.dataset_scripts.locking import LockedError, locked
from polyvid.modeling import MMPModel
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.checksums import refuse_changed_files, write_checksums
from polyvid.train.loop.curves import plot_curves
from polyvid.train.loop.processes import Processes
from polyvid.train.loop.repository import ModelRepository
from polyvid.train.loop.state import ProcessState, Progress, TrainingState
from polyvid.train.recipe import Recipe, differences, load_recipe

# These may change when a run is resumed, because no step depends on them.
CHANGEABLE = {"name", "output_dir", "data.frozen_states", "training.num_workers"}
CHANGEABLE |= {f"training.{key}" for key in ("save_minutes", "keep_last", "log_steps", "trackers")}
CHANGEABLE |= {"training.max_skipped_steps", "training.divergence"}
PATHS = {"data.clips", "data.data_dir", "data.features", "data.translations", "model.backbone", "model.init_from"}

OWN = re.compile(r"step-\d{8}|best|\.(step-\d{8}|best)\.(unfinished|outdated)")  # only this module makes these
TEMPORARY = re.compile(r"\..*\.(unfinished|outdated)")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Checkpoints:
    """Saves and restores the `TrainingState` of a run. Every process must make every call.

    Args:
        recipe: of the run; checkpoints of other recipes are refused.
        repository: writes the models of the run.
        processes: of the run.
    """

    def __init__(self, recipe: Recipe, repository: ModelRepository, processes: Processes):
        self.recipe, self.repository, self.processes = recipe, repository, processes
        self.output_dir = Path(recipe.output_dir)
        self.folder = self.output_dir / "checkpoints"
        self.best = self.folder / "best"
        self._score_of_best: float | None = None  # score of the model in `best`, if this process wrote it

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the output folder, and remove what a killed run left half-written.

        Raises:
            LockedError: if another run is using the folder; the message says which.
        """
        with ExitStack() as stack:
            error: Exception | None = None
            if self.processes.rank == 0:
                try:
                    stack.enter_context(locked(self.output_dir, "polyvid train"))
                except (LockedError, OSError) as caught:
                    error = caught
            error = self.processes.from_main(error)
            if error is not None:
                raise error
            if self.processes.rank == 0:
                self._remove_own(TEMPORARY)
            yield

    def is_finished(self) -> bool:
        """Whether the output folder holds the finished model of this recipe.

        If it does, this also removes checkpoints left by a run that was killed just before it could remove them.

        Raises:
            PolyvidError: if it holds a model trained with another recipe.
        """
        if not (self.output_dir / "model.safetensors").exists():
            return False
        self._check_recipe(self.output_dir, CHANGEABLE)
        if self.processes.rank == 0 and self.folder.exists():
            with suppress(LockedError), locked(self.output_dir, "polyvid train"):  # if locked, the other run does
                self._remove_own(OWN)
        return True

    def to_resume(self) -> Path | None:
        """The newest complete checkpoint; None if there is none."""
        return max(self.folder.glob("step-*"), default=None)

    def holds(self, step: int) -> bool:
        """Whether this step already has a checkpoint, as when a resumed run is stopped before its first step."""
        return bool(self.processes.from_main(self._of(step).exists()))

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, and remove the oldest if there are more than `keep_last`.

        Raises:
            OSError: on every process, if it cannot be written. Older checkpoints remain intact.
        """

        def write(folder: Path) -> None:
            self.repository.write(folder, state.weights, state)
            _save(state.best_weights, folder / "best.pt")
            _save(state.optimizer, folder / "optimizer.pt")
            progress = asdict(state.progress) | {"steps_per_epoch": state.steps_per_epoch}
            progress |= {"step_log": state.step_log, "scheduler": state.scheduler, "scaler": state.scaler}
            _save(progress, folder / "progress.pt")
            _save([asdict(process) for process in state.processes], folder / "processes.pt")

        self._write(self._of(state.progress.step), write)
        if self.processes.rank == 0:
            for old in sorted(self.folder.glob("step-*"))[: -self.recipe.training.keep_last]:
                _remove(old)
        # Last, because resuming does not need it: it is for people who want to try the model during training.
        best_weights, best_score = state.best_weights, state.progress.best_score
        if best_weights is not None and self._score_of_best != best_score:
            self._write(self.best, lambda folder: self.repository.write(folder, state.weights | best_weights, state))
            self._score_of_best = best_score

    def load(self) -> TrainingState | None:
        """The newest checkpoint, loaded in full on every process; None if there is none.

        Raises:
            PolyvidError: if it was written with another recipe or another number of processes, or is damaged.
        """
        last: Path | None = self.processes.from_main(self.to_resume())  # before any process can write another
        if last is None:
            return None
        self._check_recipe(last, CHANGEABLE | PATHS)
        self._refuse_damaged(last)
        processes = torch.load(last / "processes.pt", weights_only=True)
        if len(processes) != self.processes.count:
            raise PolyvidError(
                f"{last} was written by {len(processes)} process(es), this launch has {self.processes.count}: launch "
                f"as before, or start a new run from its weights: model.init_from={last} in another output_dir."
            )
        progress = torch.load(last / "progress.pt", weights_only=True)
        return TrainingState(
            progress=Progress(**{name: progress[name] for name in asdict(Progress())}),
            steps_per_epoch=progress["steps_per_epoch"],
            weights=MMPModel.from_pretrained(last).state_dict(),
            best_weights=torch.load(last / "best.pt", weights_only=True),
            optimizer=torch.load(last / "optimizer.pt", weights_only=True),
            scheduler=progress["scheduler"],
            step_log=progress["step_log"],
            processes=[ProcessState(one["cpu"], one.get("cuda"), one["batches"]) for one in processes],
            scaler=progress.get("scaler"),
        )

    def finish(self, state: TrainingState) -> None:
        """Put the selected model into the output folder, and remove the checkpoints."""
        weights = state.weights | (state.best_weights or {})

        def write(folder: Path) -> None:
            self.repository.write(folder, weights, state)
            plot_curves(self.output_dir / "steps.jsonl", state.progress.history, folder / "curves.png")

        self._write(self.best, write)

        def publish() -> None:
            # Linked, not moved, so that a run killed here can resume and repeat this. The weights come last, because
            # their presence marks the run as finished.
            for path in sorted(self.best.iterdir(), key=lambda path: path.suffix == ".safetensors"):
                _link_or_copy(path, self.output_dir / path.name)
            self._remove_own(OWN)

        self._on_main(publish, "Cannot finish")

    def _of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _check_recipe(self, folder: Path, ignored: set[str]) -> None:
        found = differences(load_recipe(folder / "recipe.yaml"), self.recipe, ignored)
        if found:
            raise PolyvidError(
                f"{folder} belongs to another recipe ({'; '.join(found)}): set it back, or choose another output_dir."
            )

    def _refuse_damaged(self, folder: Path) -> None:
        error: PolyvidError | None = None
        if self.processes.rank == 0:
            try:
                refuse_changed_files(folder, f"delete {folder}; the same command resumes from the one before, if any.")
            except PolyvidError as caught:
                error = caught
        error = self.processes.from_main(error)
        if error is not None:
            raise error

    def _remove_own(self, names: re.Pattern[str]) -> None:
        """Remove the folders of this class that match `names`, and the checkpoints folder if it is then empty."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if names.fullmatch(path.name) and OWN.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _write(self, folder: Path, write: Callable[[Path], None]) -> None:
        def write_and_rename() -> None:
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            try:
                write(unfinished)
                write_checksums(unfinished)
                for path in unfinished.iterdir():  # flush to disk before renaming, in case the machine crashes
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            if folder.exists():
                shutil.rmtree(_outdated(folder), ignore_errors=True)
                os.replace(folder, _outdated(folder))
            os.replace(unfinished, folder)
            shutil.rmtree(_outdated(folder), ignore_errors=True)

        self._on_main(write_and_rename, f"Cannot write {folder}")

    def _on_main(self, work: Callable[[], None], problem: str) -> None:
        """Do `work` on the main process. If it fails there, every process raises instead of waiting."""
        failure: Exception | None = None
        message = None
        if self.processes.rank == 0:
            try:
                work()
            except Exception as caught:
                failure, number = caught, _error_number(caught)
                if number is not None:
                    last = self.to_resume()
                    advice = "Make room" if number in FULL else "Check the disk and its permissions"
                    resuming = f"the same command resumes from {last}" if last else "nothing was saved before it"
                    message = f"{problem} ({' '.join(str(caught).split())[:200]}). {advice}; {resuming}."
        message, failed = self.processes.from_main((message, failure is not None))
        if message:
            raise OSError(message) from failure
        if failed:
            raise failure or RuntimeError(f"{problem}: see the error of the main process.")


def _save(item: Any, path: Path) -> None:
    with open(path, "wb") as file:  # torch would turn a full disk into a bare RuntimeError
        torch.save(item, file)


def _error_number(error: BaseException | None) -> int | None:
    """The errno behind an error, 0 if it has no number; None if it did not come from the operating system."""
    if not isinstance(error, OSError | SafetensorError | RuntimeError):  # torch.save wraps it in a RuntimeError
        return None
    while error is not None:
        if isinstance(error, OSError):
            return error.errno or 0
        if isinstance(error, SafetensorError) and (match := re.search(r"os error (\d+)", str(error))):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, atomically; copy it on file systems without hard links."""
    temporary = target.with_name(f".{target.name}.unfinished")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    os.replace(temporary, target)


def _outdated(folder: Path) -> Path:
    """The temporary name of a folder while its replacement takes over."""
    return folder.with_name(f".{folder.name}.outdated")


def _remove(folder: Path) -> None:
    """Rename, then remove, so that a half-removed folder is not taken for a checkpoint."""
    outdated = _outdated(folder)
    os.replace(folder, outdated)
    shutil.rmtree(outdated, ignore_errors=True)
