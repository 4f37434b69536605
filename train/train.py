"""Train a model by a recipe.

accelerate launch train/train.py --config train/configs/vtt_en.yaml training.epochs=2
"""

from pathlib import Path
from typing import Annotated

import typer

from polyvid.train.recipe import RecipeError, load_recipe


def main(
    config: Annotated[Path, typer.Option(help="Recipe file; see train/configs/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe, as section.key=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it takes.")] = False,
) -> None:
    """Train a model by a recipe; a run that was stopped goes on where it was."""
    try:
        recipe = load_recipe(config, overrides or [])
    except RecipeError as error:
        raise SystemExit(f"error: {error}") from None

    from huggingface_hub.errors import StrictDataclassError

    from polyvid.train.loop.dry_run import describe  # these import torch: late, so that a bad recipe is refused at once
    from polyvid.train.loop.setup import build_trainer
    from polyvid.train.loop.step_log import TrainingFailed
    from polyvid.train.loop.trainer import Stopped

    try:
        trainer = build_trainer(recipe)
        if dry_run:
            describe(trainer)
        elif trainer.checkpoints.is_finished():
            print(f"{recipe.output_dir} holds the finished model already; delete it to train again.")
        else:
            trainer.fit()
        trainer.accelerator.wait_for_everyone()  # or the first to leave may keep the others hanging
        trainer.accelerator.end_training()
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None
    except (ValueError, OSError, KeyError, TrainingFailed) as error:
        raise SystemExit(f"error: {_one_line(error)}") from None
    except StrictDataclassError as error:  # a wrapper of several lines around what the configuration says
        raise SystemExit(f"error: {_one_line(error.__cause__ or error)}") from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SystemExit(
            f"error: {_one_line(error)} A process that reads data died, maybe for lack of memory: lower "
            "training.num_workers. The same command goes on from the last checkpoint."
        ) from None


def _one_line(error: Exception) -> str:
    """What the error says; of one that comes from a data worker with its whole traceback, what that one says."""
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.split())


if __name__ == "__main__":
    typer.run(main)
