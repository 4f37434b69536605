"""Train a model by a recipe.

accelerate launch train/train.py --config train/configs/demo/mmp.yaml training.epochs=2
"""

from pathlib import Path
from typing import Annotated

import typer

from mmp.train.recipe import RecipeError, load_recipe


def main(
    config: Annotated[Path, typer.Option(help="Recipe file; see train/configs/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the recipe, as section.key=value.")] = None,
) -> None:
    """Train a model by a recipe; a run that was stopped goes on where it was."""
    try:
        recipe = load_recipe(config, overrides or [])
    except RecipeError as error:
        raise SystemExit(f"error: {error}") from None

    from mmp.train.setup import build_trainer  # imports torch: late, so that a bad recipe is refused at once
    from mmp.train.trainer import Stopped

    try:
        trainer = build_trainer(recipe)
        if trainer.checkpoints.is_finished():
            print(f"{recipe.output_dir} holds the finished model already; delete it to train again.")
            return
        trainer.fit()
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None
    except (ValueError, OSError, KeyError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        raise SystemExit(f"error: {message}") from None


if __name__ == "__main__":
    typer.run(main)
