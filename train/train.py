"""Train a model by a recipe.

accelerate launch train/train.py --config vtt_en training.epochs=2
"""

import sys
from pathlib import Path
from typing import Annotated

import typer


def main(
    config: Annotated[str, typer.Option(help="Recipe file, or the name of a recipe that ships, such as demo/mmp.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe, as section.key=value.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what the run would do and the resources it would need.")
    ] = False,
) -> None:
    """Train a model by a recipe. The same command resumes a run that was stopped."""
    from polyvid.train.recipe import load_recipe

    recipe = load_recipe(config, overrides or [])

    from polyvid.train.data.videos import write_splits
    from polyvid.train.extraction.bundling import carry_encoders
    from polyvid.train.loop.dry_run import describe  # they import torch: late, so that a bad recipe is refused at once
    from polyvid.train.loop.setup import build_trainer
    from polyvid.train.loop.trainer import Stopped

    trainer = build_trainer(recipe)
    if dry_run:
        describe(trainer)
    elif trainer.checkpoints.is_finished():
        print(f"{recipe.output_dir} holds the finished model already; delete it to train again.")
    else:
        if trainer.processes.rank == 0:
            write_splits(recipe.data, Path(recipe.output_dir))
        try:
            trainer.fit()
        except Stopped as stopped:
            typer.echo(str(stopped), err=True)
            raise typer.Exit(130) from None
    if not dry_run and trainer.processes.rank == 0:
        carry_encoders(recipe.model.init_from, Path(recipe.output_dir))
    trainer.accelerator.wait_for_everyone()  # or the first to leave may keep the others hanging
    trainer.accelerator.end_training()


if __name__ == "__main__":
    from polyvid.__main__ import main as run_command_line

    run_command_line(["train", *sys.argv[1:]])
